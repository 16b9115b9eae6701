"""Libraries started without what no worker needs: half the processor time and memory it takes them otherwise.

Everything is as it would be afterwards, except that numba does not know the array types of other packages.
"""

from __future__ import annotations

import importlib.metadata
import sys
import types
from typing import Any

from datatrove.utils import _import_utils
from numba.core import entrypoints


def numba_alone() -> None:
    """Let numba compile without the packages that have extensions for it, which it would all import."""
    entrypoints._already_initialized = True


def import_spacy() -> None:
    """Import spaCy without torch, which it would pull in where installed, and without its command line."""
    if "spacy" in sys.modules:
        return
    command_line: Any = types.ModuleType("spacy.cli.info")
    command_line.info = _spacy_info
    stand_ins = {"torch": None, "spacy.cli": types.ModuleType("spacy.cli"), "spacy.cli.info": command_line}
    placed = [name for name in stand_ins if name not in sys.modules]
    sys.modules.update({name: stand_ins[name] for name in placed})
    try:
        import spacy  # noqa: F401
    finally:
        for name in placed:
            del sys.modules[name]


def quick_checks() -> None:
    """Let datatrove look for a distribution that it requires by its name instead of among all that are installed."""
    _import_utils._is_distribution_available = _is_installed


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _spacy_info(*arguments: Any, **options: Any) -> Any:
    from spacy.cli.info import info

    return info(*arguments, **options)

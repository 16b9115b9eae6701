"""Which code, command and versions built an artifact."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/]*@")
_PACKAGES = ("illada", "pipelines", "workflows")
_VERSIONS = (
    "ray",
    "torch",
    "megatron-core",
    "datatrove",
    "datasets",
    "pyarrow",
    "tokenizers",
    "transformers",
    "dbos",
    "numpy",
)


@functools.cache
def code_provenance() -> dict[str, Any]:
    """Hash of the package sources, the git commit with a dirty flag when there is one, versions and command line."""
    return {
        "code_sha256": _code_hash(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_PACKAGES)),
        "argv": redact(sys.argv),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }


def redact(arguments: Sequence[str]) -> list[str]:
    """The command line without passwords of URLs."""
    return [_PASSWORD.sub(r"\1***@", argument) for argument in arguments]


def _code_hash() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None

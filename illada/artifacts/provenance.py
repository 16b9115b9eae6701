"""Which code, command and versions built an artifact."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("illada", "pipelines", "workflows")
MANIFEST = "illada-package.json"  # beside code that was shipped to a cluster: where it came from
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/]*@")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY)(_ID)?$", re.IGNORECASE)
_SHORTEST_SECRET = 8  # what is shorter is a flag or a name, and would be cut out of the middle of words
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
        **_origin(),
        "argv": redact(sys.argv),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
    }


def redact(texts: Sequence[str]) -> list[str]:
    """Command-line arguments or messages, without passwords of URLs and secrets of this process's environment."""
    secrets = {value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET}
    hidden = []
    for text in texts:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        hidden.append(_PASSWORD.sub(r"\1***@", text))
    return hidden


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _code_hash() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _origin() -> dict[str, Any]:
    """The git commit and whether the code differs from it; shipped code has its origin's, in its manifest."""
    manifest = ROOT / MANIFEST
    if manifest.is_file():
        shipped = json.loads(manifest.read_text(encoding="utf-8"))
        return {name: shipped[name] for name in ("git_commit", "git_dirty")}
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *PACKAGES)
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": bool(dirty)}


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None

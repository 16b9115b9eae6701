"""Lists of sites whose documents are not wanted, or do not want to be: the user's block lists and opt-outs.

One site a line, `#` begins a comment: a domain, which stands for its subdomains too, and after a blank (or attached, as
in an address) the beginning of a path, which covers what begins with it as `Disallow` does in robots.txt (RFC 9309,
section 2.2.2, without wildcards). `*.example.org`, schemes and ports are understood and say no more than the domain.

    example.org
    example.org /private/
    https://example.org/private/page.html

International names are compared in their ASCII form (UTS 46), percent-encoded paths decoded. The domains become a
memory-mapped array of hashes, so that a list of millions costs a worker nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from illada.artifacts import Folder, atomic_path, sha256_file, write_json
from illada.config import ConfigError, Curate
from pipelines.shared import Reference, share

_HOST = re.compile(r"[a-z0-9_.-]*[a-z0-9]")
REASONS = {"opt-out": "opted_out", "block-list": "blocked_site"}
"""The steps there may be, in order, with the reason for which they drop."""
Site = tuple[str, str]
"""A host as `split_url` gives it, and the beginning of a path, empty for all of the host."""


def check_sites(config: Curate) -> None:
    """Raise ConfigError for a list that is missing, or a line of one that is no site."""
    for patterns in _lists(config).values():
        for path in patterns:
            for _ in read_sites(Path(path)):
                pass


def sites_identity(config: Curate) -> dict[str, Any]:
    """The content of the lists that `config` names, as part of a stage's identity; nothing when there are none."""
    files = {name: [sha256_file(Path(path)) for path in paths] for name, paths in _lists(config).items() if paths}
    return {"lists": files} if files else {}


def read_sites(path: Path) -> Iterator[Site]:
    """The sites of a list. Raises ConfigError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: a list of sites that cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        host, prefix = split_url(words[0].removeprefix("*.").removeprefix("."))
        if len(words) == 2 and words[1].startswith("/") and prefix in ("", "/"):
            prefix = unquote(words[1])
        elif len(words) > 1:
            host = ""
        if not _HOST.fullmatch(host) or words[0].endswith(":"):
            raise ConfigError(f"{path}, line {number}: {line.strip()[:80]!r} is not a domain, or a domain and a /path")
        yield host, "" if prefix == "/" else prefix


def split_url(url: str) -> Site:
    """Host (lower case, ASCII, without port and final dot) and decoded path with query; both empty for no URL."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return "", ""
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode()
        except ValueError:  # no name that could be registered: it stands for itself
            host = host.lower()
    return host, unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path)


def share_sites(config: Curate, scratch: Path, work: Folder) -> dict[str, list[Reference]]:
    """Make the lists visible to all nodes, compiled, by the names of the steps that use them."""
    from pipelines.urls import hashes

    shared: dict[str, list[Reference]] = {}
    for name, paths in _lists(config).items():
        if not paths:
            continue
        sites = {site for path in paths for site in read_sites(Path(path))}
        whole = {host for host, prefix in sites if not prefix}
        prefixes: dict[str, list[str]] = {}
        for host, prefix in sorted(sites):
            if prefix:
                prefixes.setdefault(host, []).append(prefix)
        with atomic_path(scratch / f"{name}-hosts.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.sort(hashes([host.encode() for host in whole])))
        write_json(scratch / f"{name}-paths.json", prefixes)
        shared[name] = [share(scratch / f"{name}-{part}", work) for part in ("hosts.npy", "paths.json")]
    return shared


def _lists(config: Curate) -> dict[str, tuple[str, ...]]:
    return {"opt-out": config.opt_outs, "block-list": config.block_lists}

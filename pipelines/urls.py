"""datatrove's URL filter without its network access, and with its block lists in 36 MB that all processes share.

The lists (4.6 million domains) are in datatrove's package. As Python sets they take 765 MB a process; here they are
sorted 64-bit hashes in a memory-mapped file. Two strings with one hash are expected once in 10^12 look-ups.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt
import xxhash
from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from datatrove.pipeline.filters.url_filter import get_list, normalize, normalizer
from datatrove.utils._import_utils import ASSETS_PATH

from illada.artifacts import Folder, atomic_path
from pipelines.shared import Reference, share

_LISTS = ("domains", "urls")
_ARCHIVE = "url_filterblacklistsv0_3_0.tar.gz"
_BLOCK = 8 * 2**20
_HOSTS = 4096  # that are remembered


def share_block_lists(scratch: Path, work: Folder) -> list[Reference]:
    """Make the lists of domains and of URLs visible to all nodes; see `pipelines.shared`."""
    build_block_lists(scratch)
    return [share(scratch / f"{name}.npy", work) for name in _LISTS]


def build_block_lists(folder: Path) -> None:
    """Write `domains.npy` and `urls.npy` into `folder` unless they are there."""
    if all((folder / f"{name}.npy").exists() for name in _LISTS):
        return
    left = set(_LISTS)
    with tarfile.open(Path(ASSETS_PATH) / _ARCHIVE, "r|gz") as archive:  # from beginning to end, once
        for entry in archive:
            member = archive.extractfile(entry)
            if entry.name not in left or member is None:
                continue
            left.remove(entry.name)
            found = np.concatenate(list(_line_hashes(member)))
            found.sort()
            with atomic_path(folder / f"{entry.name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, found)
    assert not left, f"{_ARCHIVE} has no member {sorted(left)}"


def _line_hashes(file: IO[bytes]) -> Iterator[npt.NDArray[np.uint64]]:
    """Hashes of the lines, block by block: as Python objects all of them at once would take half a gigabyte."""
    rest = b""
    while block := file.read(_BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        yield hashes(lines)
    yield hashes([rest] if rest else [])


def hashes(lines: list[bytes]) -> npt.NDArray[np.uint64]:
    """xxh64 of each line, without blanks around it."""
    return np.fromiter(map(xxhash.xxh64_intdigest, map(bytes.strip, lines)), dtype=np.uint64, count=len(lines))


class HashSet:
    """Membership of strings in a file of ascending hashes."""

    def __init__(self, path: Path) -> None:
        self._hashes = np.load(path, mmap_mode="r")

    def __contains__(self, text: str) -> bool:
        key = np.uint64(xxhash.xxh64_intdigest(text.encode()))
        index = int(np.searchsorted(self._hashes, key))
        return index < len(self._hashes) and bool(self._hashes[index] == key)


class OfflineURLFilter(URLFilter):
    """The stock filter's decisions; top-level domains are those known to the installed tldextract."""

    def __new__(cls, lists: Sequence[Path]) -> Self:
        """datatrove would ask for a package that only its download needs."""
        return object.__new__(cls)

    def __init__(self, lists: Sequence[Path]) -> None:
        super().__init__()
        from tldextract import TLDExtract
        from tldextract.remote import lenient_netloc

        self._lists: Sequence[Path] | None = lists
        self.tldextractor = TLDExtract(suffix_list_urls=(), cache_dir=None)
        self._host, self._split = lenient_netloc, functools.lru_cache(_HOSTS)(self.tldextractor)

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """The stock decision, with a host taken apart once and words looked up where stock goes through its lists."""
        self.download_data()
        url = document.metadata["url"]
        host = self._split(self._host(url))
        if host.top_domain_under_public_suffix in self.block_listed_domains:
            return False, "domain"
        if host.fqdn in self.block_listed_domains:
            return False, "subdomain"
        if url in self.block_listed_url:
            return False, "url"
        words = set(normalizer.split(url))
        if not words.isdisjoint(self.banned_words):
            return False, "hard_blacklisted"
        if len(words & self.soft_banned_words) >= self.soft_word_threshold:
            return False, "soft_blacklisted"
        if next(self.banned_subwords_automaton.iter(normalize(url)), None):
            return False, "blacklisted_subword"
        return True

    def download_data(self) -> None:
        """Open the lists, once; nothing is downloaded."""
        if self._lists is None:
            return
        domains, urls = self._lists
        self.block_listed_domains = HashSet(domains)
        self.block_listed_url = HashSet(urls)
        self.banned_words = get_list(ASSETS_PATH, "banned_words.txt", set())
        self.banned_subwords = get_list(ASSETS_PATH, "banned_subwords.txt", set())
        self.soft_banned_words = get_list(ASSETS_PATH, "soft_banned_words.txt", set())
        for number, word in enumerate(sorted(self.banned_subwords)):
            self.banned_subwords_automaton.add_word(word, number)
        self.banned_subwords_automaton.make_automaton()
        self._lists = None

"""The datatrove step that drops documents by the site they are from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from pipelines.shared import Reference, fetch
from pipelines.sites import split_url
from pipelines.urls import HashSet


class SiteFilter(BaseFilter):
    """Drops documents whose metadata has a `url` on one of the sites that `share_sites` compiled into two files."""

    name = "sites"

    def __init__(self, files: Sequence[Reference], reason: str, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        hosts, paths = map(fetch, files)
        self._hosts, self._reason = HashSet(hosts), reason
        self._prefixes: Mapping[str, list[str]] = json.loads(paths.read_text(encoding="utf-8"))

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """The host, each domain it is under, and the paths that are listed for those."""
        host, path = split_url(doc.metadata.get("url") or "")
        path = path or "/"
        while host:
            if host in self._hosts or path.startswith(tuple(self._prefixes.get(host, ()))):
                return False, self._reason
            host = host.partition(".")[2]
        return True

"""Stage `curate`: acquired sources become documents worth training on.

Pages are read, reduced to their main text, filtered by URL, language and quality, and rid of personal data in a chain
of datatrove blocks that runs inside the actor pool, one file (or range of rows) at a time. Output:
`documents/*.parquet`, a sample of what was rejected with reasons in `rejected/*.parquet`, the funnel as statistics.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illada.artifacts import Artifact, ArtifactError, Attempt, Progress
from illada.artifacts.folder import is_url
from illada.config import Curate, DataPlacement, Privacy
from pipelines.documents import TextDocument, write_documents
from pipelines.domains import PER_UNIT, DomainTally, merge_domains
from pipelines.funnel import MAX_DAMAGED, Tally, main_losses, merge
from pipelines.inputs import checksum, plan_units, read_inventory
from pipelines.pool import Results, Unit, run_units
from pipelines.privacy.redact import add_found
from pipelines.rejected import write_rejected
from pipelines.shared import Reference, fetch
from pipelines.trees import TREES

CURATE_VERSION = 8

_CARRIED = ("url", "source", "language", "language_score", "title", "date")


def curate(
    config: Curate,
    sources: Mapping[str, Artifact],
    attempt: Attempt,
    placement: DataPlacement,
    progress: Progress,
    *,
    privacy: Privacy | None = None,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Build the curated documents of `sources`, in their order; without `privacy` nobody looks for personal data.

    Returns statistics: funnel, languages, sources, domains, damaged, privacy (kind: documents and occurrences), and
    quarantined (units of input that were given up, whose documents nobody could count).

    Raises:
        ValueError: nothing is left after filtering (unless it `may_be_empty`), or a source's file changed since it was
            acquired.
    """
    units = plan_units([read_inventory(artifact) for artifact in sources.values()])
    lists: Sequence[Reference] = ()
    if config.url_filter:
        progress.start(None, "block lists")
        from pipelines.urls import share_block_lists

        lists = share_block_lists(attempt.scratch / "block-lists", attempt.work)
    sites = _sites(config, attempt)
    factory = functools.partial(CurateWorker, config, privacy, lists, sites)
    most = math.ceil(config.max_quarantined * len(units))
    results = run_units(units, factory, attempt.work / "units", placement, progress, "MB", most)
    statistics = _statistics(results)
    if not statistics["languages"] and not may_be_empty:
        losses = main_losses(statistics["funnel"])
        raise ValueError(
            f"no document is left after curation ({losses}); loosen data.curate or add sources: {', '.join(sources)}"
        )
    for kind in ("documents", "rejected"):
        filled = (result for result in results if result.statistics[kind])
        for number, result in enumerate(filled):
            result.adopt(f"{kind}.parquet", attempt, f"{kind}/{number:05d}.parquet")
    return statistics


def _sites(config: Curate, attempt: Attempt) -> Mapping[str, Sequence[Reference]]:
    """The user's lists of sites for the workers. Raises ValueError for one that changed."""
    if not config.opt_outs and not config.block_lists:
        return {}
    from pipelines.sites import share_sites, sites_identity

    if sites_identity(config)["lists"] != attempt.identity.config.get("lists"):
        raise ValueError("a list of sites changed while the stage was starting; run again")
    return share_sites(config, attempt.scratch, attempt.work)


class CurateWorker:
    """Runs the filter chain on one unit after another. Imports datatrove and loads its models on construction."""

    def __init__(
        self,
        config: Curate,
        privacy: Privacy | None,
        block_lists: Sequence[Reference],
        sites: Mapping[str, Sequence[Reference]],
    ) -> None:
        from pipelines.filters import build_chain
        from pipelines.privacy.step import PrivacyFilter
        from pipelines.readers import READ
        from pipelines.recorder import Sink
        from pipelines.site_filter import SiteFilter
        from pipelines.sites import REASONS

        self._config = config
        first = [
            (SiteFilter(sites[name], REASONS[name], sink := Sink(name)), sink) for name in REASONS if name in sites
        ]
        self._chain = first + build_chain(config, [fetch(file) for file in block_lists])
        self._privacy = None
        if privacy is not None:
            sink = Sink("privacy")
            self._privacy = PrivacyFilter(privacy, sink)
            self._chain.append((self._privacy, sink))
        self._steps = [READ, *(step for _, sink in self._chain for step in sink.steps)]
        self._checked: set[str] = set()

    def run(self, unit: Unit, output: Path) -> dict[str, Any]:
        """Write `documents.parquet` and `rejected.parquet` of the unit; returns their counts, funnel and damage."""
        from pipelines.readers import Reader
        from pipelines.recorder import Recorder, run_chain

        path = self._unchanged(unit.payload)
        recorder = Recorder(self._steps, str(unit.payload["name"]), self._config.rejected_sample)
        languages, sources, domains = Tally(), Tally(), DomainTally()
        kept: list[TextDocument] = []
        read = domains.reading(Reader(path, unit.payload, recorder).run())
        for document in run_chain(self._chain, read, recorder):
            text = TextDocument(
                text=document.text,
                id=document.id,
                **{key: document.metadata[key] for key in _CARRIED},
            )
            languages.add(text.language, text.bytes)
            sources.add(text.source, text.bytes)
            domains.keep(text.url, text.bytes)
            kept.append(text)
        write_documents(output / "documents.parquet", kept)
        if self._privacy:
            for row in recorder.rejected:
                row["text"] = self._privacy.clean(row["text"])
        write_rejected(output / "rejected.parquet", recorder.rejected)
        return {
            "documents": len(kept),
            "rejected": len(recorder.rejected),
            "funnel": recorder.funnel.rows(),
            "languages": languages.rows(),
            "sources": sources.rows(),
            "domains": domains.rows(PER_UNIT),
            "damaged": recorder.damaged,
            "privacy": self._privacy.found if self._privacy else {},
        }

    def _unchanged(self, payload: Mapping[str, Any]) -> Path:
        """A local path of the unit's input, which is as it was when it was acquired. Raises ValueError.

        Of many small files each is compared when it is read.
        """
        if payload["kind"] in TREES:
            return Path(payload["name"])
        file = payload["file"]
        try:
            path = Path(file["url"]) if payload["kind"] == "hf-dataset" else fetch(file)
            known = is_url(file["url"]) or file["url"] in self._checked  # what is fetched is checked on its way
            changed = not known and checksum(path)[1] != file["sha256"]
        except (FileNotFoundError, ArtifactError):
            changed = True
        if changed:
            raise ValueError(
                f"{file['url']}: missing or changed since source {payload['source']!r} was acquired; run again to take "
                "it as it is now"
            )
        self._checked.add(file["url"])
        return path


def _statistics(results: Results) -> dict[str, Any]:
    languages, sources = Tally(), Tally()
    damaged: list[dict[str, str]] = []
    for result in results:
        languages.update(result.statistics["languages"])
        sources.update(result.statistics["sources"])
        damaged += result.statistics["damaged"][: MAX_DAMAGED - len(damaged)]
    return {
        "funnel": merge(result.statistics["funnel"] for result in results),
        "languages": languages.rows(),
        "sources": sources.rows(),
        "domains": merge_domains(result.statistics["domains"] for result in results),
        "damaged": damaged,
        "quarantined": [
            {"unit": lost.unit.name, "file": lost.unit.payload["name"], "cause": lost.cause}
            for lost in results.quarantined
        ],
        "privacy": add_found(result.statistics["privacy"] for result in results),
    }

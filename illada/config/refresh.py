"""A refresh: which sources a corpus grows from, and how what is new in them becomes its next snapshot."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from illada.config.base import Config
from illada.config.data import CorpusName, Curate, Decontaminate, Deduplicate, Tokenize, Tokenizer
from illada.config.names import SourceName
from illada.config.privacy import Privacy
from illada.config.quality import Quality
from illada.config.sources import CODE_EXTENSIONS, COLUMNS
from illada.config.workflow import RunConfig


class GrowingFiles(Config):
    """What all sources of a refresh have: files that are added under new names and never change under old ones.

    Files that are not local are copied into the store, or read where they are if `copy_files` is false: twice, and once
    more by whoever builds the snapshot again. Of files of code only those with `extensions` are taken.
    """

    name: SourceName
    files: Literal["warc", "parquet", "jsonl", "text", "code"]
    text_column: str = "text"
    id_column: str | None = None
    url_column: str | None = None
    date_column: str | None = None
    extensions: tuple[str, ...] = CODE_EXTENSIONS
    licence: str = "unknown"
    copy_files: bool = True

    def taking(self) -> dict[str, Any]:
        """What documents are made of these files by: not where the files are, nor how they are found."""
        how = {"name", "files", "licence", "copy_files", *(f"{key}_column" for key in COLUMNS)}
        return self.model_dump(mode="json", include=how)

    def columns(self) -> dict[str, str | None]:
        """The columns of a table by what they hold; nothing of files that are no tables."""
        return {key: getattr(self, f"{key}_column") for key in COLUMNS} if self.files in ("parquet", "jsonl") else {}


class Listing(GrowingFiles):
    """Files named by a listing, one path or URL a line (plain or .gz), such as a crawl's `warc.paths.gz`.

    `base` is put before each line. Listing and files may be on any file system fsspec knows (paths, https, s3).
    """

    kind: Literal["listing"] = "listing"
    listing: str = Field(min_length=1)
    base: str = ""


class GrowingFolder(GrowingFiles):
    """Files below a folder or an object-store prefix whose path from there matches `pattern`."""

    kind: Literal["folder"] = "folder"
    location: str = Field(min_length=1)
    pattern: str = "**/*"


class HubDataset(GrowingFiles):
    """Files of a dataset repository on a Hugging Face hub, as they are at `revision` (a branch, tag or commit)."""

    kind: Literal["hf-dataset"] = "hf-dataset"
    repository: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = "main"
    pattern: str = "**/*.parquet"


GrowingSource = Annotated[Listing | GrowingFolder | HubDataset, Field(discriminator="kind")]


class RefreshConfig(RunConfig):
    """Find what is new in the sources of `corpus` and publish its next snapshot.

    `quality`, `deduplicate`, `tokenizer` and `tokenize` belong to the corpus: its first snapshot fixes them.
    `curate`, `privacy`, which of new duplicates is kept (`deduplicate.keep`) and the benchmarks whose text is removed
    from new documents (`decontaminate`) may change.
    """

    workflow: Literal["refresh"] = "refresh"
    corpus: CorpusName
    sources: tuple[GrowingSource, ...] = Field(min_length=1)
    curate: Curate = Curate()
    privacy: Privacy | None = Privacy()
    quality: Quality | None = None
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate = Decontaminate()
    tokenizer: Tokenizer
    tokenize: Tokenize = Tokenize()

    @model_validator(mode="before")
    @classmethod
    def _only_what_an_index_can(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("substrings") is not None:
            raise ValueError(
                "substrings: a refresh reads new documents only and cannot tell what older ones have in common "
                "with them: leave it out, or make the corpus by a run from data.sources"
            )
        return value

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"source names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _benchmarks_are_removed(self) -> Self:
        if self.decontaminate.benchmarks and not self.decontaminate.removes:
            raise ValueError(
                "decontaminate.action report: a refresh makes no report (releases do, of the whole corpus): say cut or "
                "drop, or leave decontaminate out"
            )
        return self

    @model_validator(mode="after")
    def _kept_by_a_score(self) -> Self:
        self.deduplicate.check_quality(self.quality)
        return self

    def fixed(self) -> dict[str, Any]:
        """What must not change from snapshot to snapshot."""
        return {
            "quality": {} if self.quality is None else self.quality.identity(),
            "deduplicate": self.deduplicate.fixed(),
            "tokenizer": self.tokenizer.identity(),
            "tokenize": self.tokenize.identity(),
        }

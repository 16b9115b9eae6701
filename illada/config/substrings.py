"""Text that occurs word for word in several documents, or several times in one."""

from __future__ import annotations

from pydantic import Field

from illada.config.base import Config


class Substrings(Config):
    """Exact substring deduplication (Lee et al., arXiv 2107.06499): the first of all equal stretches of text stays.

    A byte is repeated when it lies in a run of `length` bytes that is somewhere before it in the corpus already.
    Documents of which at least the share `drop_share` is repeated are dropped. From others repeated text is cut, up to
    the words at its ends that are repeated in part; with `cut` false they are left as they are.
    """

    length: int = Field(default=200, ge=16, le=10_000)
    cut: bool = True
    drop_share: float = Field(default=0.8, gt=0, le=1)

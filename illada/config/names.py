"""Names that become parts of paths."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]

"""The project's own code as one file, so that a job on any cluster runs exactly what was submitted.

A package is a zip of the three source packages and a manifest: code hash, git commit, and the versions of Python and of
the libraries that shape results. It is identified by the sha256 of its bytes, which depend on nothing but the content,
and kept in the run database: whoever reaches that can start another job, also after the cluster lost everything.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from illada.artifacts.provenance import MANIFEST, PACKAGES, ROOT, code_provenance
from illada.config import ConfigError
from illada.durable.database import packages

_FORMAT = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: times of files are no part of the content
_IDENTITY = ("code_sha256", "git_commit", "git_dirty", "python", "versions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A zip file and its identity."""

    sha256: str
    data: bytes

    @property
    def manifest(self) -> dict[str, Any]:
        """code_sha256, git_commit, git_dirty, python, versions."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
        return manifest


def build_package() -> Package:
    """The code this process runs, from a checkout, an installation or another package."""
    provenance = code_provenance()
    manifest = {"format": _FORMAT, **{name: provenance[name] for name in _IDENTITY}}
    content = {MANIFEST: json.dumps(manifest, sort_keys=True).encode()}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                content[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # compressors differ between machines
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content[name])
    data = buffer.getvalue()
    return Package(sha256=hashlib.sha256(data).hexdigest(), data=data)


def save_package(engine: sa.Engine, package: Package) -> None:
    """Keep `package` in the run database, once."""
    insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    values = {"sha256": package.sha256, "data": package.data, "created": time.time()}
    with engine.begin() as connection:
        connection.execute(insert(packages).values(values).on_conflict_do_nothing())


def load_package(engine: sa.Engine, sha256: str) -> Package:
    """The package of this identity. Raises ConfigError when it is missing or damaged."""
    with engine.begin() as connection:
        query = sa.select(packages.c.data).where(packages.c.sha256 == sha256)
        data = connection.execute(query).scalar_one_or_none()
    if data is None:
        raise ConfigError(f"package {sha256[:12]} is not in the run database; submit the run again")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ConfigError(f"package {sha256[:12]} is damaged in the run database; submit the run again")
    return Package(sha256=sha256, data=bytes(data))


def check_environment(package: Package) -> None:
    """Raises ConfigError naming every version (of Python, a library or our own code) that is not as submitted.

    Builds of one version (`2.13.0+cpu`, `2.13.0+cu130`: the local part of PEP 440) are the same: people submit to
    accelerators from machines without any.
    """
    pinned, here = package.manifest, code_provenance()
    differences = [
        f"{name} is {here['versions'].get(name, 'missing')} here, {version} was submitted"
        for name, version in sorted(pinned["versions"].items())
        if str(here["versions"].get(name)).partition("+")[0] != version.partition("+")[0]
    ]
    if here["python"] != pinned["python"]:
        differences.insert(0, f"python is {here['python']} here, {pinned['python']} was submitted")
    if here["code_sha256"] != pinned["code_sha256"]:
        differences.append(f"the code is {here['code_sha256'][:12]} here, {pinned['code_sha256'][:12]} was submitted")
    if differences:
        raise ConfigError(
            f"the cluster's environment is not the submitted one: {'; '.join(differences)}. Install the same versions "
            "on the cluster's nodes, or submit from an environment like theirs"
        )

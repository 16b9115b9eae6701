"""A package is the code, the same bytes everywhere; the environment it was made in is held to."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.artifacts.provenance import MANIFEST, PACKAGES, ROOT, code_provenance
from illada.config import ConfigError
from illada.durable.database import packages
from illada.durable.package import Package, build_package, check_environment, load_package, save_package


def changed(package: Package, **values: object) -> Package:
    """The package with another manifest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MANIFEST, json.dumps({**package.manifest, **values}))
    return Package(sha256="", data=buffer.getvalue())


def test_package_holds_every_file_of_the_code_and_nothing_else() -> None:
    package = build_package()
    names = zipfile.ZipFile(io.BytesIO(package.data)).namelist()
    assert {name.split("/")[0] for name in names} == {MANIFEST, *PACKAGES}
    assert {"illada/py.typed", "illada/release/card.md.jinja", "illada/report/page.css"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert build_package() == package


def test_unpacked_package_is_the_same_package_and_knows_its_commit(tmp_path: Path) -> None:
    package = build_package()
    zipfile.ZipFile(io.BytesIO(package.data)).extractall(tmp_path)
    code = (
        "import json; from illada.durable.package import build_package; from illada.artifacts import provenance;"
        "found = provenance.code_provenance(); found.pop('argv');"
        "print(json.dumps([build_package().sha256, str(provenance.ROOT), found]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sha256, root, provenance = json.loads(done.stdout)
    here = {name: value for name, value in code_provenance().items() if name != "argv"}
    assert (sha256, root) == (package.sha256, str(tmp_path))
    assert provenance == here
    assert tmp_path != ROOT


def test_package_is_kept_in_the_database(engine: sa.Engine) -> None:
    package = build_package()
    with pytest.raises(ConfigError, match="is not in the run database; submit the run again"):
        load_package(engine, package.sha256)
    save_package(engine, package)
    save_package(engine, package)
    assert load_package(engine, package.sha256) == package
    with engine.begin() as connection:
        connection.execute(sa.update(packages).values(data=package.data[:-1]))
    with pytest.raises(ConfigError, match="is damaged in the run database"):
        load_package(engine, package.sha256)


def test_environment_must_be_the_submitted_one() -> None:
    package = build_package()
    check_environment(package)
    torch = package.manifest["versions"]["torch"].partition("+")[0]
    check_environment(changed(package, versions={**package.manifest["versions"], "torch": f"{torch}+cu999"}))
    versions = {**package.manifest["versions"], "torch": "1.0", "absent": "2"}
    other = changed(package, versions=versions, python="3.9.0", code_sha256="0" * 64)
    with pytest.raises(ConfigError) as caught:
        check_environment(other)
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "python is 3.",
        "3.9.0 was submitted",
        "1.0 was submitted",
        "absent is missing here, 2 was submitted",
        "the code is",
    ):
        assert words in message
    assert "numpy" not in message

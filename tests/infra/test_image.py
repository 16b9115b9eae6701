"""The Dockerfile, as far as it can be judged without a container engine: no image is built here.

It is linted, its stages and copies are followed, and what it copies into the build is really installed and started.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from infra_manifests import BIN, INFRA, ROOT

DOCKERFILE = INFRA / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, those of the stage it starts from before its own."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for keyword, text in instructions():
        if keyword == "FROM":
            base, _, name = text.partition(" AS ")
            current = found[name] = list(found.get(base, []))
        current.append((keyword, text))
    return found


def copied(stage: str) -> list[str]:
    """Paths of the repository that a stage copies."""
    found = []
    for keyword, text in stages()[stage]:
        if keyword == "COPY" and not text.startswith("--from"):
            found += text.split()[:-1]
    return found


def test_hadolint_has_no_complaint() -> None:
    result = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_does_complain(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text().replace("ARG PYTHON=3.11-slim-bookworm", "").replace("${PYTHON}", "latest"))
    assert subprocess.run([BIN / "hadolint", bad], capture_output=True, timeout=60, check=False).returncode == 1


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_targets(target: str) -> None:
    own = stages()[target]
    assert ("COPY", f"--from=build-{target} /opt/illada/.venv /opt/illada/.venv") in own
    users = [text for keyword, text in own if keyword == "USER"]
    assert users == ["1000"]  # as the pods' security context has it
    installs = [text for keyword, text in stages()[f"build-{target}"] if keyword == "RUN" and "pip install" in text]
    for command in installs:
        assert command.count("-c constraints.txt") == command.count("pip install"), "unpinned"
    assert "torch.version.cuda" in installs[-1] if target == "cuda" else "torch.version.cuda" not in installs[-1]


@pytest.mark.parametrize("target", ["build-cpu", "cpu"])
def test_what_is_copied_exists_and_is_not_ignored(target: str) -> None:
    ignore = (INFRA / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    paths = copied(target)
    assert paths
    for path in paths:
        assert (ROOT / path).exists() and path in kept
    assert "*" in ignore and any(fnmatch.fnmatch("illada/cli/__pycache__", line) for line in ignore)


@pytest.mark.slow
def test_what_is_copied_installs_and_starts(tmp_path: Path) -> None:
    """The build's own `pip install .`, of the copied files alone; its dependencies are there already."""
    context, target = tmp_path / "context", tmp_path / "site"
    context.mkdir()
    for name in copied("build-cpu"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    quiet = ["-q", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "-c", "constraints.txt", "--no-deps", "--no-compile"]
    subprocess.run([*command, "--target", target, "."], cwd=context, check=True, timeout=240)
    installed = {
        path.relative_to(target) for path in target.rglob("*") if path.suffix in (".py", ".jinja", ".css", ".js")
    }
    there = {
        path.relative_to(ROOT)
        for room in ("illada", "pipelines", "workflows")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".jinja", ".css", ".js")
    }
    assert installed >= there, "not installed"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    plan = ["-m", "illada.cli.main", "plan", str(ROOT / "configs/workflows/illada-8b.yaml"), "--json"]
    where = "import illada, sys; sys.exit(None if illada.__file__.startswith(sys.argv[1]) else illada.__file__)"
    subprocess.run([sys.executable, "-c", where, target], cwd=tmp_path, env=environment, check=True, timeout=60)
    made = subprocess.run(
        [sys.executable, *plan], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    assert b'"non_embedding": 6979588096' in made.stdout

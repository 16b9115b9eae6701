"""A release verifies, and stops verifying when anything in it is changed, added, removed or swapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from illada.artifacts import Artifact
from illada.cli.main import app
from illada.release.checksums import ReleaseError, write_checksums
from illada.release.probes import TOLERANCE
from illada.release.provenance import check_provenance
from illada.release.verify import verify

if TYPE_CHECKING:
    from conftest import Chain

Build = Callable[[list[Artifact]], Artifact]
FILES = {
    "README.md",
    "checksums.json",
    "config.json",
    "configuration_illada.py",
    "gates.json",
    "generation_config.json",
    "model.safetensors",
    "modeling_illada.py",
    "probes.safetensors",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def copy(released: Artifact, tmp_path: Path) -> Path:
    return shutil.copytree(released.local(), tmp_path / "release")


def test_a_release_is_complete_and_verifies(released: Artifact) -> None:
    assert set(released.names) == FILES
    assert [check.name for check in verify(released.local())] == ["files", "provenance", "gates", "weights", "probes"]
    assert released.statistics["files"] == len(FILES)
    done = CliRunner().invoke(app, ["verify", str(released.local())])
    assert done.exit_code == 0
    assert "16 artifacts lead back to 3 source files" in done.output
    assert "3 passed, waived: decontamination (no benchmarks | here)" in done.output
    assert CliRunner().invoke(app, ["verify"]).exit_code == 2


def test_the_same_chain_gives_the_same_bytes(chain: Chain, released: Artifact, build_in: Build) -> None:
    assert build_in(chain.artifacts).content == released.content


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_byte_in_any_file_is_found_and_named(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    for position in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
        for bit in (1, 32):
            changed = bytearray(data)
            changed[position] ^= bit
            (copy / name).write_bytes(changed)
            with pytest.raises(ReleaseError) as raised:
                verify(copy)
            assert str(copy / name) in str(raised.value) or name == "checksums.json"


def test_white_space_in_the_list_itself_is_found(copy: Path) -> None:
    path = copy / "checksums.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ReleaseError, match=r"checksums\.json: .* changed"):
        verify(copy)


def test_extra_missing_and_linked_files_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "sub").mkdir()
    (copy / "sub" / "extra.bin").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"sub/extra\.bin: is not listed"):
        verify(copy)
    shutil.rmtree(copy / "sub")
    shutil.move(copy / "config.json", tmp_path / "config.json")
    with pytest.raises(ReleaseError, match=r"config\.json: is missing"):
        verify(copy)
    (copy / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ReleaseError, match=r"config\.json: is a link"):
        verify(copy)
    with pytest.raises(ReleaseError, match="no such folder"):
        verify(tmp_path / "absent")
    with pytest.raises(ReleaseError, match="not a readable list"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../config.json", "./config.json", "a\\b"])
def test_names_that_leave_the_folder_are_refused(copy: Path, name: str) -> None:
    (copy.parent / "outside").write_bytes(b"")
    _edit(copy / "checksums.json", lambda value: value["files"].update({name: {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(ReleaseError, match="not the name of a file"):
        verify(copy)


def test_other_weights_are_found_by_their_logits_and_by_the_chain(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 0.5
    save_file(weights, path, metadata={"format": "pt"})
    checksums = _seal(copy)
    with pytest.raises(ReleaseError, match=r"model\.safetensors: is not the file"):
        verify(copy)
    digest = checksums["model.safetensors"]["sha256"]

    def cover_up(value: dict[str, Any]) -> None:
        for artifact in value["artifacts"]:
            for file in artifact.get("files", []):
                if file["name"] == "model.safetensors":
                    file["sha256"] = digest

    _edit(copy / "provenance.json", cover_up)
    _seal(copy)
    with pytest.raises(ReleaseError, match="content digest of export-sft"):
        verify(copy)


def test_logits_that_do_not_match_are_found(copy: Path) -> None:
    probes = load_file(copy / "probes.safetensors")
    probes["logits"][1, 2, 3] += 3 * TOLERANCE * probes["logits"].abs().max()
    save_file(probes, copy / "probes.safetensors")
    _seal(copy)
    with pytest.raises(ReleaseError, match=r"probes\.safetensors: the model's logits differ"):
        verify(copy)
    probes["logits"] = torch.full_like(probes["logits"], torch.nan)
    save_file(probes, copy / "probes.safetensors")
    _seal(copy)
    with pytest.raises(ReleaseError, match="differ"):
        verify(copy)


def _drop(stage: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        value["artifacts"] = [artifact for artifact in value["artifacts"] if artifact["stage"] != stage]

    return change


def _set_threshold(value: dict[str, Any]) -> None:
    value["artifacts"][2]["config"] = {"language_threshold": 0.1}


def _forget_sources(value: dict[str, Any]) -> None:
    value["sources"] = value["sources"][:1]


def _forget_sha256(value: dict[str, Any]) -> None:
    value["sources"][0]["files"][0]["sha256"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("tokenize"), "'tokens' of pretrain"),
        (_drop("acquire-web"), "'web' of curate"),
        (_set_threshold, "fingerprint of curate"),
        (_forget_sources, "sources listed"),
        (_forget_sha256, "no sha256"),
        (lambda value: value.update(model={"stage": "x", "fingerprint": "0" * 64}), "not in the chain"),
        (lambda value: value.pop("artifacts"), "unreadable"),
        (lambda value: value.update(provenance_version=3), "version 3"),
    ],
)
def test_a_broken_chain_of_provenance_is_found(
    copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _edit(copy / "provenance.json", change)
    _seal(copy)
    with pytest.raises(ReleaseError, match=message) as raised:
        verify(copy)
    assert "provenance.json" in str(raised.value)


def test_building_from_an_incomplete_chain_fails(chain: Chain, build_in: Build) -> None:
    with pytest.raises(ReleaseError, match="'curated' of quality-model"):
        build_in([artifact for artifact in chain.artifacts if artifact.stage != "curate"])


def test_model_files_are_shared_with_the_export(chain: Chain, released: Artifact) -> None:
    """Hard links: an 8B model is not stored twice."""
    exported = next(artifact for artifact in chain.artifacts if artifact.stage == "export-sft")
    for name in exported.names:
        assert exported.path(name).samefile(released.path(name))


def test_provenance_says_which_code_and_nothing_of_the_machine(released: Artifact) -> None:
    text = released.path("provenance.json").read_text()
    value = json.loads(text)
    for artifact in value["artifacts"]:
        assert {"code_sha256", "git_commit", "git_dirty", "python", "versions"} == artifact["code"].keys()
    for word in ("argv", "seconds", "started", "placement"):
        assert f'"{word}"' not in text
    checksums = json.loads(released.path("checksums.json").read_text())["files"]
    checked = check_provenance(released.local(), {name: entry["sha256"] for name, entry in checksums.items()})
    assert (len(checked["artifacts"]), [len(source["files"]) for source in checked["sources"]]) == (16, [2, 1])


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _seal(folder: Path) -> dict[str, Any]:
    """What somebody who wants to deceive does too: make the checksums fit."""
    write_checksums(folder)
    files: dict[str, Any] = json.loads((folder / "checksums.json").read_text())["files"]
    return files

"""A push sends each file once, however often it is killed; half a release is never one; nothing else is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hub_server import serve

from illada.artifacts import Artifact
from illada.release.checksums import CHECKSUMS, ReleaseError, write_checksums
from illada.release.push import JOURNAL, PushError, push
from illada.release.verify import verify

_KILLED = """
import os, signal, sys
from pathlib import Path
from illada.release.push import push
sent = []
def notice(line):
    if len(sent) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(line)
push(Path(sys.argv[1]), sys.argv[2], notice)
"""


@pytest.fixture
def folder(released: Artifact, tmp_path: Path) -> Path:
    return shutil.copytree(released.local(), tmp_path / "release")


def sent(folder: Path, url: str) -> list[str]:
    """The files that a push sends."""
    lines: list[str] = []
    push(folder, url, lines.append)
    return [line.split(" ")[0] for line in lines]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != CHECKSUMS)


def remote(url: str) -> dict[str, bytes]:
    files, root = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return {name[len(root) + 1 :]: files.cat_file(name) for name in files.find(root)}


def test_a_push_is_whole_and_the_next_sends_nothing(folder: Path, s3_url: str, tmp_path: Path) -> None:
    url = f"{s3_url}/models/tiny"
    assert sent(folder, url) == [*names(folder), CHECKSUMS]
    there = remote(url)
    assert there == {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, data in there.items():
        (tmp_path / "down").mkdir(exist_ok=True)
        (tmp_path / "down" / name).write_bytes(data)
    assert len(verify(tmp_path / "down")) == 5
    assert sent(folder, url) == []


def test_a_killed_push_goes_on_and_is_no_release_until_the_end(folder: Path, s3_url: str) -> None:
    url = f"{s3_url}/models/tiny"
    expected = names(folder)
    for count in (4, 3):
        killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder), url, str(count)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert CHECKSUMS not in remote(url)
    assert sorted(remote(url)) == sorted([*expected[:7], JOURNAL])

    assert sent(folder, url) == [*expected[7:], CHECKSUMS]
    assert sorted(remote(url)) == sorted([*expected, CHECKSUMS])


def test_what_was_changed_or_cut_short_there_is_sent_again(folder: Path, s3_url: str) -> None:
    url = f"{s3_url}/models/tiny"
    subprocess.run([sys.executable, "-c", _KILLED, str(folder), url, "6"], check=False)
    files, root = fsspec.url_to_fs(url)
    other, cut = names(folder)[1], names(folder)[3]
    files.pipe_file(f"{root}/{other}", b"x" * (folder / other).stat().st_size)  # the size is right
    files.pipe_file(f"{root}/{cut}", b"x")
    assert sent(folder, url) == [*sorted([other, cut, *names(folder)[6:]]), CHECKSUMS]
    assert remote(url) == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_half_of_another_release_is_replaced(folder: Path, s3_url: str) -> None:
    url = f"{s3_url}/models/tiny"
    older = shutil.copytree(folder, folder.parent / "older")
    (older / "README.md").write_text("an older card")
    (older / "AAA.txt").write_text("gone since")
    write_checksums(older)
    subprocess.run([sys.executable, "-c", _KILLED, str(older), url, "4"], check=False)
    assert "AAA.txt" in remote(url)
    assert "README.md" in sent(folder, url)
    assert remote(url) == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_release_and_strange_files_are_left_alone(folder: Path, s3_url: str) -> None:
    files, root = fsspec.url_to_fs(f"{s3_url}/models")
    files.pipe_file(f"{root}/full/notes.txt", b"mine")
    with pytest.raises(PushError, match=r"models/full: holds notes\.txt, which is no part of this release"):
        push(folder, f"{s3_url}/models/full")
    push(folder, f"{s3_url}/models/tiny")
    before = remote(f"{s3_url}/models/tiny")
    (folder / "README.md").write_text("another card")
    write_checksums(folder)
    with pytest.raises(PushError, match="holds another release"):
        push(folder, f"{s3_url}/models/tiny")
    assert remote(f"{s3_url}/models/tiny") == before


def test_a_damaged_release_is_not_pushed(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"config\.json"):
        push(folder, str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://a/b", "no such kind of place"),
        ("s3://key:secret@bucket/x", "s3://bucket/x: credentials come from the environment"),
        ("hf://only-a-name", "write it as hf://owner/name"),
        ("s3://there-is-no-such-bucket/x", "there-is-no-such-bucket/x: "),
    ],
)
def test_wrong_addresses_are_one_line(folder: Path, s3_url: str, url: str, message: str) -> None:
    with pytest.raises(PushError, match=r"^[^\n]+$") as caught:
        push(folder, url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


_HUB = """
import sys
from pathlib import Path
from illada.release.push import PushError, push
try:
    push(Path(sys.argv[1]), "hf://me/tiny")
except PushError as error:
    print(error)
    sys.exit(1)
"""


def push_to_hub(folder: Path, address: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its environment when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_TOKEN": "hf_planted",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command: list[Any] = [sys.executable, "-c", _HUB, folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_hub_gets_one_commit_and_each_large_file_once(folder: Path, tmp_path: Path) -> None:
    """Against a hub on loopback that speaks the Hub's protocol, through the real client."""
    with serve() as hub:
        hub.files = {".gitattributes": b"lfs", "old.bin": b"of the release before"}
        hub.refuse_after = 1
        failed = push_to_hub(folder, hub.address, tmp_path)
        assert failed.returncode == 1 and "push again to send the rest" in failed.stdout, failed.stdout + failed.stderr
        assert "hf_planted" not in failed.stdout + failed.stderr
        assert set(hub.files) == {".gitattributes", "old.bin"} and not hub.commits
        assert len(hub.uploads) == 1

        hub.refuse_after = None
        done = push_to_hub(folder, hub.address, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(hub.uploads) == len(set(hub.uploads)) == 2
        assert hub.files.pop(".gitattributes") == b"lfs"
        assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len(hub.commits) == 1 and hub.commits[0].startswith("Release ")
        assert hub.private is True
        assert hub.tokens == {"Bearer hf_planted"}
        listed = json.loads(hub.files[CHECKSUMS])["files"]
        assert set(listed) == set(hub.files) - {CHECKSUMS}

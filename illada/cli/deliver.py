"""Where a release goes besides the output folder: another folder, an object store, a hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from illada.config import ConfigError, ReleaseConfig

_LISTING = "checksums.json"


def deliver(config: ReleaseConfig, release: Path, notice: Callable[[str], None]) -> None:
    """Bring the finished release to the configuration's destinations; what is there already is not sent again."""
    from illada.release.push import push

    if config.to is not None:
        check_folder(Path(config.to))
        place(release, Path(config.to))
        notice(f"copied to {config.to}")
    if config.push is not None:
        push(release, config.push, lambda line: notice(f"push: {line}"))
        notice(f"pushed to {config.push}")


def place(release: Path, folder: Path) -> None:
    """Copy a release out of the store: people may edit or move what they get, the artifact must not change with it."""
    if (folder / _LISTING).is_file() and (folder / _LISTING).read_bytes() == (release / _LISTING).read_bytes():
        return
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(release, draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def check_folder(folder: Path) -> None:
    """Raises ConfigError for a folder with something else in it, which is not replaced."""
    if folder.exists() and not (folder / _LISTING).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--to {folder}: holds something that is no release; give an empty or a new folder")

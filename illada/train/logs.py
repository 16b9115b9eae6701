"""The output of a rank's process, that of C++ libraries included, as a file in the stage's work folder."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

from illada.artifacts import Folder, scratch_folder

_UPLOAD_SECONDS = 10.0


class RankLog:
    """Sends this process's output to the file `name` of `folder`, from the start of the block until the process ends.

    In an object store the file is local, and brought there now and then while it grows and at the end of the block.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._ended = threading.Event()
        self._sent = 0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> None:
        local = self._folder.path or self._open.enter_context(scratch_folder())
        local.mkdir(parents=True, exist_ok=True)
        _redirect(local / self._name)
        if self._folder.path is None:
            self._uploads = threading.Thread(target=self._upload_often, args=(local / self._name,), daemon=True)
            self._uploads.start()
            self._open.callback(self._uploads.join)
            self._open.callback(self._ended.set)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._open.close()

    def _upload_often(self, path: Path) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(_UPLOAD_SECONDS)
            data = path.read_bytes()
            if len(data) > self._sent:
                with contextlib.suppress(OSError):  # a log must not end a rank
                    self._folder.write(self._name, data)
                    self._sent = len(data)


def _redirect(path: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

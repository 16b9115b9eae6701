"""A process of its own for functions that untrusted input may send round in circles, eat memory with, or crash.

Limits are of processor time and memory, never of the clock: what comes out does not depend on how busy the machine is.
The process serves call after call and is replaced when one of them has killed it, which costs that call only. What it
sends back is plain text, never unpickled.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SIZES = struct.Struct("<BII")  # status, bytes of the text, bytes of the title
_REQUEST = struct.Struct("<I")
_DONE, _ERROR, _MEMORY = 0, 1, 2
_PIPE = 2**20


class SandboxError(Exception):
    """A call that did not succeed. `reason` is `timeout`, `memory`, `crash` or, if the function raised, `error`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Sandbox:
    """Calls a function from text to two texts in another process.

    `factory` is `module:name` of a function without arguments that returns that function. A call may take
    `processor_seconds` (system time included) and `memory` bytes more than the process has once it is ready. With four
    times that, allocations fail; what comes of a call that took more is not used, as libraries hide such failures.
    """

    def __init__(self, factory: str, processor_seconds: float = 30.0, memory: int = 2**29) -> None:
        self._command = [sys.executable, "-m", "pipelines.sandbox", factory, str(processor_seconds), str(memory)]
        self._seconds, self._memory = processor_seconds, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def __call__(self, text: str) -> tuple[str, str]:
        """The function's results.

        Raises:
            SandboxError: it took too much, crashed the process, or raised.
        """
        if self._process is None:
            self._start()
        payload = text.encode(errors="replace")
        try:
            self._send(_REQUEST.pack(len(payload)))
            self._send(payload)
            status, *sizes = _SIZES.unpack(self._receive(_SIZES.size))
            first, second = (self._receive(size).decode() for size in sizes)
        except (EOFError, BrokenPipeError):
            raise self._post_mortem() from None
        if status == _DONE:
            return first, second
        if status == _MEMORY:
            self.close()  # what it has taken it will not give back
            raise SandboxError("memory", f"more than {self._memory / 2**20:,.0f} MB of memory")
        raise SandboxError("error", first)

    def close(self) -> None:
        """End the process. The next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            os.close(self._to)
            os.close(self._from)
            self._process = None

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        """Start the process and wait until it is ready. Raises RuntimeError if it does not get that far."""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [*self._command, str(theirs_in), str(theirs_out)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(theirs_in, theirs_out)
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        try:
            self._receive(1)
        except EOFError:
            code = self._process.wait()
            raise RuntimeError(
                f"sandbox {self._command[3]} does not start (exit status {code}); see its messages"
            ) from None

    def _post_mortem(self) -> SandboxError:
        """What the process died of."""
        assert self._process is not None
        code = self._process.wait()
        self.close()
        if code == -signal.SIGPROF:
            return SandboxError("timeout", f"more than {self._seconds:g} s of processor time")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return SandboxError("crash", f"the parser died of {name}")

    def _send(self, payload: bytes) -> None:
        left = memoryview(payload)
        while left:
            left = left[os.write(self._to, left) :]

    def _receive(self, size: int) -> bytes:
        return _read(self._from, size)


def _read(source: int, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError."""
    first = os.read(source, size)
    if len(first) == size:
        return first
    pieces, missing = [first], size - len(first)
    while missing and pieces[-1]:
        pieces.append(os.read(source, min(missing, _PIPE)))
        missing -= len(pieces[-1])
    if missing:
        raise EOFError
    return b"".join(pieces)


def _serve(function: Callable[[str], tuple[str, str]], seconds: float, memory: int, source: int, target: int) -> None:
    """Answer calls until there are no more."""
    status_file = os.open("/proc/self/status", os.O_RDONLY)
    most = _kilobytes(status_file, b"VmSize:") * 1024 + 4 * memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _kilobytes(status_file, b"VmRSS:") + memory // 1024
    with open(target, "wb") as out:
        out.write(b"+")
        out.flush()
        while True:
            try:
                (size,) = _REQUEST.unpack(_read(source, _REQUEST.size))
                status, first, second = _call(function, _read(source, size), seconds)
            except EOFError:
                return
            if _kilobytes(status_file, b"VmHWM:") > limit:
                status, first, second = _MEMORY, b"", b""
            out.write(_SIZES.pack(status, len(first), len(second)))
            out.write(first)
            out.write(second)
            out.flush()


def _call(function: Callable[[str], tuple[str, str]], payload: bytes, seconds: float) -> tuple[int, bytes, bytes]:
    """Status and results. The process dies of SIGPROF, of which nobody can be late to hear, when time is up."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        first, second = function(payload.decode())
        return _DONE, first.encode(errors="replace"), second.encode(errors="replace")
    except MemoryError:
        return _MEMORY, b"", b""
    except Exception as error:
        return _ERROR, f"{type(error).__name__}: {error}"[:1000].encode(errors="replace"), b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _kilobytes(status: int, field: bytes) -> int:
    """A field of this process's status, an open file: of the memory it has, or at most had, since it began."""
    text = os.pread(status, 8192, 0)
    return int(text[text.index(field) + len(field) :].split(None, 1)[0])


def _main(factory: str, seconds: str, memory: str, source: str, target: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    module, name = factory.split(":")
    make: Callable[[], Any] = getattr(importlib.import_module(module), name)
    function = make()
    gc.freeze()  # what is loaded is not looked through again and again
    _serve(function, float(seconds), int(memory), int(source), int(target))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""A function for the sandbox that does what its text says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def make() -> Callable[[str], tuple[str, str]]:
    return obey


def obey(text: str) -> tuple[str, str]:
    verb, _, argument = text.partition(" ")
    if verb == "spin":
        while True:
            pass
    if verb == "eat":
        return "x" * int(argument), ""
    if verb == "die":
        os.kill(os.getpid(), getattr(signal, argument))
    if verb == "exit":
        os._exit(int(argument))
    if verb == "raise":
        raise ValueError(argument)
    if verb == "say":
        print(argument, flush=True)
    return text.upper(), str(os.getpid())


def broken() -> Callable[[str], tuple[str, str]]:
    raise OSError("no model")

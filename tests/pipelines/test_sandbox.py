"""What a call costs when it goes wrong: itself, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipelines.sandbox import Sandbox, SandboxError


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox("fragile:make", processor_seconds=0.2, memory=2**26)
    yield sandbox
    sandbox.close()


def test_calls_share_a_process(sandbox: Sandbox) -> None:
    text, process = sandbox("straße\0 \ud800 漢字")
    assert text == "STRASSE\0 ? 漢字"
    assert sandbox("say nothing")[1] == process  # what it prints is not taken for an answer
    assert sandbox("")[0] == ""
    long = "ab" * 3_000_000
    assert sandbox(long)[0] == long.upper()


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("spin", "timeout", "more than 0.2 s of processor time"),
        ("eat 100000000", "memory", "more than 64 MB of memory"),
        ("eat 900000000", "memory", "more than 64 MB of memory"),
        ("die SIGSEGV", "crash", "the parser died of SIGSEGV"),
        ("die SIGKILL", "crash", "the parser died of SIGKILL"),
        ("exit 3", "crash", "the parser died of exit status 3"),
        ("raise too deep", "error", "ValueError: too deep"),
    ],
)
def test_a_call_that_goes_wrong_costs_itself(sandbox: Sandbox, text: str, reason: str, message: str) -> None:
    before = sandbox("x")[1]
    with pytest.raises(SandboxError, match=message) as caught:
        sandbox(text)
    assert caught.value.reason == reason
    after = sandbox("y")
    assert after[0] == "Y"
    assert (after[1] == before) == (reason == "error")


def test_time_that_others_take_is_not_counted(sandbox: Sandbox) -> None:
    process = sandbox("x")[1]
    time.sleep(0.3)
    assert sandbox("x")[1] == process


def test_a_function_that_cannot_be_made_is_an_error_at_once() -> None:
    with pytest.raises(RuntimeError, match="sandbox fragile:broken does not start"):
        Sandbox("fragile:broken")

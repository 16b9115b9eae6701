"""The shim, in a thread of its own so that it ends with the test."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from illada.model.cpu import install_cpu_shim

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA: the shim does nothing")


def _in_thread(work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("current_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, getattr(torch.cuda, name))


def test_cuda_is_answered_with_the_cpu() -> None:
    def work() -> None:
        install_cpu_shim()
        assert torch.zeros(2, device="cuda").device.type == "cpu"
        assert torch.empty(2, device=torch.cuda.current_device()).device.type == "cpu"
        x = torch.ones(3, dtype=torch.bfloat16)
        assert x.cuda() is x and x.cuda(torch.cuda.current_device()) is x
        assert x.to("cuda:0") is x and x.to(device="cuda", dtype=torch.float32).dtype == torch.float32
        assert x.type() == "torch.cuda.BFloat16Tensor" and x.type(torch.float32).dtype == torch.float32
        assert torch.tensor([1.0], dtype=torch.float, device="cuda").item() == 1.0
        torch.cuda.synchronize()

    _in_thread(work)


def test_installing_again_changes_nothing() -> None:
    def work() -> None:
        install_cpu_shim()
        depth = len(torch.overrides._get_current_function_mode_stack())
        install_cpu_shim()
        assert len(torch.overrides._get_current_function_mode_stack()) == depth

    _in_thread(work)


def test_other_threads_are_left_alone() -> None:
    _in_thread(install_cpu_shim)
    assert torch.ones(1).type() == "torch.FloatTensor"

"""The machines a plan is made for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a run would have to itself. Defaults are like a cluster of NVIDIA H100 SXM.

    Attributes:
        devices: accelerators.
        device_memory_gb: memory of one, in 10^9 bytes (NVIDIA H100 data sheet).
        peak_tflops: dense bfloat16 peak of one (same data sheet: 1,979 with sparsity, half of it without).
        mfu: model FLOPs utilisation; Llama 3 ran at 0.38 to 0.43 on H100s (arXiv 2407.21783, table 4).
        mtbf_hours: mean time between failures that stop a job, of one device: Llama 3 had 419 unexpected interruptions
            in 54 days on 16,384 H100s (same paper, section 3.3.4), which is one in 50,000 device hours.
        write_gb_per_second: what all ranks together write to checkpoint storage; an assumption, measure yours.
        restart_minutes: from a failure to the next step; an assumption.
    """

    devices: int = 256
    device_memory_gb: float = 80.0
    peak_tflops: float = 989.0
    mfu: float = 0.4
    mtbf_hours: float = 50_000.0
    write_gb_per_second: float = 5.0
    restart_minutes: float = 10.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"cluster: {field.name} must be positive, got {getattr(self, field.name)}")
        if self.mfu > 1:
            raise ValueError(f"cluster: mfu is a fraction of peak, got {self.mfu}")

    @property
    def flops(self) -> float:
        """Useful operations a second of all devices."""
        return self.devices * self.peak_tflops * 1e12 * self.mfu

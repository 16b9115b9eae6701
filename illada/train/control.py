"""Small values in the cluster's control service, by which driver, controller and ranks of one stage talk.

`key` is of one start of a stage's ranks by its driver, and shared by all their restarts.
"""

from __future__ import annotations

STOP = "stop"
"""Set by the driver: ranks are to end."""
ROW = "row"
"""The newest row of metrics."""
BEAT = "beat-"
"""Before a rank's number: where it is."""


def read(key: str, what: str) -> bytes | None:
    """One value; None when there is none."""
    from ray.experimental.internal_kv import _internal_kv_get

    value: bytes | None = _internal_kv_get(f"{key}-{what}".encode())
    return value


def write(key: str, what: str, value: bytes) -> None:
    """Set or replace one value."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(f"{key}-{what}".encode(), value)


def names(key: str, start: str) -> list[str]:
    """The values there are whose names begin with `start`."""
    from ray.experimental.internal_kv import _internal_kv_list

    return [name.decode().removeprefix(f"{key}-") for name in _internal_kv_list(f"{key}-{start}".encode())]


def forget(key: str, what: str) -> None:
    """Remove one value, if there is one."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(f"{key}-{what}".encode())

"""What goes wrong on our own side with one datagram, at a point that a test names (sim.Host.impair)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

_D = TypeVar("_D", bound=Any)
LATE_S = 0.7                        # of what is delayed


def impaired(datagram: _D, how: str | None) -> list[tuple[float, _D]]:
    """Return what becomes of a datagram: seconds from now, and as what."""
    match how:
        case "drop":
            return []
        case "delay":
            return [(LATE_S, datagram)]
        case "repeat":
            return [(0.0, datagram), (0.0, datagram)]
        case "corrupt":
            return [(0.0, replace(datagram, data=datagram.data[:-1] + bytes((datagram.data[-1] ^ 1,))))]
        case _:
            return [(0.0, datagram)]

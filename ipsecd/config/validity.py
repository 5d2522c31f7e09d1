"""When the certificates of a configuration end, and when to say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DAY_S = 86400.0
WARN_DAYS = (1, 7, 30)          # before the end


@dataclass(frozen=True, slots=True)
class Validity:
    """The time in which one certificate is valid, in Unix seconds; `place` is where it is named, and its subject."""

    place: str
    not_before: float
    not_after: float


def expiry_warnings(validities: Iterable[Validity], wall_now: float) -> tuple[str, ...]:
    """Return a line for each certificate that ends soon, has ended, or is not valid yet."""
    found = ((v.place, _state(v, wall_now)) for v in validities)
    return tuple(f"{place} {state}" for place, state in found if state)


def _state(validity: Validity, wall_now: float) -> str:
    if wall_now < validity.not_before:
        return "is not valid yet"
    days = (validity.not_after - wall_now) / DAY_S
    if days < 0:
        return f"ended {-days:.0f} days ago"
    return next((f"ends in less than {limit} {'days' if limit > 1 else 'day'}" for limit in WARN_DAYS if days < limit),
                "")

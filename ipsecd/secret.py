"""Secret: bytes that no log, repr, traceback or JSON answer shows."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A wrapper, not a bytes subclass: `str()` and f-strings of a subclass would still print the key."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes, for the one call that needs them."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<Secret {len(self._value)} bytes>"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, so that policies holding secrets can be diffed."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")

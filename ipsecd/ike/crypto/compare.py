"""The one comparison for values that an attacker may guess: MACs, cookies, tokens."""

from __future__ import annotations

import hmac


def same_bytes(a: bytes, b: bytes) -> bool:
    """Return whether both are equal, in a time that does not tell where they differ; lengths may show."""
    return hmac.compare_digest(a, b)

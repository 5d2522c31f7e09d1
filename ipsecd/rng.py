"""Chance is an argument: the core draws every random value through this protocol.

The only implementation that draws from the operating system is runtime/entropy.py; tests use a seeded one.
"""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """Source of unpredictable values."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` bytes fit for nonces, SPIs and IVs."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high), for jitter only."""
        ...


def nonzero_spi64(rng: Rng) -> bytes:
    """Draw an 8-byte IKE SPI that is not zero (RFC 7296 3.1)."""
    while True:
        spi = rng.random_bytes(8)
        if any(spi):
            return spi


def esp_spi(rng: Rng) -> int:
    """Draw an ESP SPI outside the reserved range 0-255 (RFC 4303 2.1)."""
    while True:
        spi = int.from_bytes(rng.random_bytes(4), "big")
        if spi > 255:
            return spi

"""What the data plane tells the control side: plain values, collected for a batch and then handed over."""

from __future__ import annotations

from typing import NamedTuple

from ipsecd.sa import ChildKey, Path


class Acquire(NamedTuple):
    """A packet has no SA to go on."""

    child: ChildKey
    packet: bytes                                  # its first bytes


class SoftLifetime(NamedTuple):
    """A pair should be rekeyed."""

    spi_in: int
    why: str


class HardLifetime(NamedTuple):
    """A pair carries no more traffic."""

    spi_in: int
    why: str


class PeerAddress(NamedTuple):
    """A fresh authenticated packet came from another address; the pair sends there already."""

    spi_in: int
    path: Path


class FirstInbound(NamedTuple):
    """The first authenticated packet of a pair."""

    spi_in: int


class LargeOutbound(NamedTuple):
    """A packet left on the pair that only a path of more than the least size carries."""

    spi_in: int


class UnknownSpi(NamedTuple):
    """ESP for an SPI that is not installed."""

    path: Path
    spi: int


Report = Acquire | SoftLifetime | HardLifetime | PeerAddress | FirstInbound | LargeOutbound | UnknownSpi

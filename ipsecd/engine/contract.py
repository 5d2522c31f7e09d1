"""The engine contract: what every data plane offers the control side, and what it reports back.

Commands are plain method calls from the loop's thread; a native engine takes them under its own locks.  Reports go to
an EngineListener, called from the loop's thread only.  The data plane never waits for the control side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ipsecd.drops import DropReason
from ipsecd.ipsec.reports import (
    Acquire,
    FirstInbound,
    HardLifetime,
    LargeOutbound,
    PeerAddress,
    Report,
    SoftLifetime,
    UnknownSpi,
)
from ipsecd.policy import SpdEntry
from ipsecd.sa import ChildKey, Path, SaPair, SaStats


class EngineListener(Protocol):
    """What an engine reports.  None of these may block."""

    def ike_datagram(self, path: Path, datagram: bytes) -> None:
        """Take an IKE datagram, marker removed, that arrived on UDP/4500."""

    def acquire(self, child: ChildKey, packet: bytes) -> None:
        """Note that a packet (first 128 bytes) has no SA yet and is held; sent once until the child moves."""

    def soft_lifetime(self, spi_in: int, why: str) -> None:
        """Note that a pair reached a soft limit by bytes, packets or sequence number."""

    def hard_lifetime(self, spi_in: int, why: str) -> None:
        """Note that a pair reached a hard limit and no longer carries traffic."""

    def peer_address(self, spi_in: int, path: Path) -> None:
        """Note that an authenticated, fresh packet came from another address; the engine follows by itself."""

    def first_inbound(self, spi_in: int) -> None:
        """Note the first authenticated packet of a pair: the peer sends on it (rekey switch of a responder)."""

    def large_outbound(self, spi_in: int) -> None:
        """Note that a large packet left on a pair (ipsec.mtu.LARGE_PACKET_BYTES; rate-limited by the engine)."""

    def unknown_spi(self, path: Path, spi: int) -> None:
        """Note ESP for an SPI that is not installed (rate-limited by the engine)."""


def tell(reports: Iterable[Report], listener: EngineListener) -> None:
    """Hand over what a data plane without threads has to say."""
    for report in reports:
        match report:
            case Acquire(child, packet):
                listener.acquire(child, packet)
            case SoftLifetime(spi_in, why):
                listener.soft_lifetime(spi_in, why)
            case HardLifetime(spi_in, why):
                listener.hard_lifetime(spi_in, why)
            case PeerAddress(spi_in, path):
                listener.peer_address(spi_in, path)
            case FirstInbound(spi_in):
                listener.first_inbound(spi_in)
            case LargeOutbound(spi_in):
                listener.large_outbound(spi_in)
            case UnknownSpi(path, spi):
                listener.unknown_spi(path, spi)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A reading of all counters; `pairs` is keyed by inbound SPI."""

    pairs: Mapping[int, SaStats]
    drops: Mapping[DropReason, int]
    pair_drops: Mapping[int, Mapping[DropReason, int]]
    held_packets: Mapping[ChildKey, int]
    overflows: Mapping[str, int] = field(default_factory=dict[str, int])   # kernel socket and TUN overflows by name


class Engine(Protocol):
    """A data plane."""

    name: str

    def install_sa(self, pair: SaPair) -> None:
        """Accept inbound packets of the pair from now on; keep the outbound side ready."""

    def use_outbound(self, child: ChildKey, spi_in: int) -> None:
        """Send the slot's traffic on this pair, and release what was held for the child."""

    def update_path(self, spi_in: int, path: Path) -> None:
        """Send the pair's packets over another path."""

    def remove_sa(self, spi_in: int) -> tuple[SaStats, Mapping[DropReason, int]] | None:
        """Forget both directions of a pair; return its last counters and drops, None for an unknown SPI."""

    def abandon_held(self, child: ChildKey) -> None:
        """Drop, with a count, what is held for a child."""

    def replace_policy(self, entries: Sequence[SpdEntry], inner_mtus: Mapping[ChildKey, int]) -> None:
        """Replace the SPD as a whole; SAs of children that are gone stay until removed."""

    def send_ike(self, path: Path, datagram: bytes) -> None:
        """Send an IKE datagram behind the non-ESP marker from UDP/4500."""

    def send_keepalive(self, path: Path) -> None:
        """Send a NAT keepalive."""

    def inject(self, child: ChildKey, packet: bytes) -> bool:
        """Send an inner packet as if it came from the TUN (probes); False when the child has no SA."""
        ...

    def send_dummy(self, spi_in: int, size: int) -> bool:
        """Send a packet around `size` bytes that the peer discards (RFC 4303 2.6); False where none goes."""
        ...

    def last_inbound(self, spi_in: int) -> float | None:
        """Return the time of the pair's last authenticated packet, None for never or an unknown SPI."""

    def stats(self) -> EngineStats:
        """Read all counters."""
        ...

    def close(self) -> None:
        """Stop reading; the TUN device stays."""

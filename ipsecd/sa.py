"""Security associations as plain data: what IKE negotiates and an engine installs.  No library's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import ChildSuite


class Endpoint(NamedTuple):
    """An outside address and UDP port, 0 where there is no UDP; the address is printed form without scope."""

    address: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Path(NamedTuple):
    """Where datagrams leave and arrive: our endpoint, the peer's.  Without ports it is ESP's that goes without UDP."""

    local: Endpoint
    remote: Endpoint

    @property
    def raw(self) -> bool:
        """Whether what goes here is an IP protocol of its own, not UDP (RFC 4303 2, RFC 3948)."""
        return not self.remote.port

    def without_udp(self) -> Path:
        """Return the same way for ESP that goes without UDP."""
        return Path(Endpoint(self.local.address, 0), Endpoint(self.remote.address, 0))

    def __str__(self) -> str:
        return f"{self.local} -> {self.remote}"


class LinkSize(NamedTuple):
    """What the host says of the way to a peer, in bytes of IP datagrams.

    `link_bytes` is what the first link and the route as configured take; `hint_bytes` what an ICMP error, which
    anybody can forge, left in the kernel's cache, 0 for nothing.
    """

    link_bytes: int
    hint_bytes: int = 0


class ChildKey(NamedTuple):
    """Names a configured child: the peer entry and the child entry in it."""

    peer: str
    child: str

    def __str__(self) -> str:
        return f"{self.peer}/{self.child}"


class TransportEnds(NamedTuple):
    """The two hosts of a pair in transport mode (RFC 4301 3.2), by the addresses that headers on this host have.

    `nat_sum` is what NATs between them took from the sum of both addresses, in [0, 65534]: it is added to the checksums
    of what arrives, which the peer made over the addresses that it sees (RFC 3948 3.1.2).
    """

    local: str
    remote: str
    nat_sum: int = 0


@dataclass(frozen=True, slots=True)
class SaSpec:
    """One direction of an ESP or AH SA pair (RFC 4301 4.4.2.1): its SPI and keys (RFC 7296 2.17)."""

    spi: int
    encr_key: Secret        # cipher key followed by its salt; empty with AH
    integ_key: Secret       # empty with an AEAD cipher; GMAC's key is followed by its salt


@dataclass(frozen=True, slots=True)
class Volume:
    """Lifetimes by volume (RFC 4301 4.4.2.1); 0 means no such limit."""

    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


class Tfc(NamedTuple):
    """Traffic flow confidentiality of what we send (RFC 4303 2.6, 2.7).

    Packets are padded to a multiple of `pad_to` bytes, 0 for none, or `randomly`, and never beyond what the path
    carries; `dummies_per_s` is the mean rate of packets that the peer discards.
    """

    pad_to: int = 0
    randomly: bool = False
    dummies_per_s: int = 0

    @property
    def pads(self) -> bool:
        """Whether packets are padded."""
        return self.randomly or self.pad_to > 0

    def __str__(self) -> str:
        sizes = "random sizes" if self.randomly else f"multiples of {self.pad_to} bytes" if self.pad_to else ""
        dummies = f"{self.dummies_per_s} dummies a second" if self.dummies_per_s else ""
        return ", ".join(filter(None, (sizes, dummies)))


NO_TFC = Tfc()


@dataclass(frozen=True, slots=True)
class SaPair:
    """Both directions of a Child SA, ready for an engine.

    `slot` tells apart the pairs of one child (`ts_style: per-pair`): a rekeyed pair keeps its slot, and
    `use_outbound` replaces within the slot.  `follow` allows the peer's address to move on an authenticated, fresh
    packet (RFC 7296 2.23): not when we are behind the NAT, nor with anti-replay off.  `transport` is set in transport
    mode, where selectors name its two addresses alone.
    """

    child: ChildKey
    slot: int
    suite: ChildSuite
    inbound: SaSpec
    outbound: SaSpec
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]
    path: Path
    replay_window: int      # packets; 0 switches anti-replay off
    follow: bool
    volume: Volume
    device: str = "ipsec0"
    transport: TransportEnds | None = None
    tfc: Tfc = NO_TFC

    @property
    def spi_in(self) -> int:
        """The inbound SPI, which identifies the pair on this gateway."""
        return self.inbound.spi


@dataclass(frozen=True, slots=True)
class SaStats:
    """Counters of one SA pair since installation; times are the engine's `now`, None for never."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    last_in: float | None = None
    last_out: float | None = None
    lost_in: int = 0            # sequence numbers that left the replay window without a packet

    def __add__(self, other: SaStats) -> SaStats:
        """Return the counters of both; times are the later ones."""
        return SaStats(self.packets_in + other.packets_in, self.bytes_in + other.bytes_in,
                       self.packets_out + other.packets_out, self.bytes_out + other.bytes_out,
                       _later(self.last_in, other.last_in), _later(self.last_out, other.last_out),
                       self.lost_in + other.lost_in)


def _later(*times: float | None) -> float | None:
    return max((t for t in times if t is not None), default=None)


@dataclass(frozen=True, slots=True)
class Deadline:
    """The one time, in seconds of the gateway's clock, at which something must happen, and why."""

    at: float
    why: str

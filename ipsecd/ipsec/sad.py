"""The Security Association Database: pairs by inbound SPI, and which of them each child sends on (RFC 4301 4.4.2)."""

from __future__ import annotations

from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.ipsec import ah_transport, esp, spd, transport
from ipsecd.ipsec.ah import Ah
from ipsecd.ipsec.ip import FlowKey
from ipsecd.ipsec.lifetime import (
    LAST_EXTENDED_SEQUENCE,
    LAST_SEQUENCE,
    SOFT_EXTENDED_SEQUENCE,
    SOFT_SEQUENCE,
    Meter,
)
from ipsecd.ipsec.replay import ReplayWindow
from ipsecd.ipsec.slots import Slots
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey, SaPair, SaStats
from ipsecd.suites import AhSuite


class AhPair(NamedTuple):
    """Both directions of a pair of AH SAs."""

    seal: Ah
    open: Ah


class Pair:
    """One installed SaPair with all that moves: counters, window, path.  Fields are read directly by the hot path.

    A pair of AH has `ah`, and neither `sealer` nor `opener`.
    """

    __slots__ = ("ah", "alarm_sequence", "child", "device", "drops", "esn", "flows", "follow", "heard", "inner_mtu",
                 "inward", "large_due", "last_sequence", "opener", "outward", "part_of", "path", "refusal", "sealer",
                 "sequence", "slot", "spi_in", "tfc", "transport", "ts_local", "ts_remote", "window", "window_size")

    def __init__(self, pair: SaPair, rng: Rng, inner_mtu: int) -> None:
        self.spi_in = pair.spi_in
        self.child = pair.child
        self.slot = pair.slot
        self.device = pair.device
        self.path = pair.path
        # RFC 7296 2.23: without replay protection an old packet could move the peer's address.
        self.follow = pair.follow and pair.replay_window > 0
        self.ts_local = pair.ts_local
        self.ts_remote = pair.ts_remote
        self.tfc = pair.tfc
        self.inner_mtu = inner_mtu                 # 0: not known
        self.transport = transport.Rebuilder(pair.transport) if pair.transport is not None else None
        self.large_due = 0.0                       # when the next large packet is worth a report
        self.esn = pair.suite.esn
        self.ah: AhPair | None = None
        if isinstance(pair.suite, AhSuite):
            self.ah = AhPair(Ah(pair.suite, pair.outbound), Ah(pair.suite, pair.inbound))
            self.part_of = ah_transport.part_of    # in transport mode: what of a packet is protected
        else:
            self.part_of = transport.part_of
            self.sealer = esp.make_seal(pair.suite, pair.outbound, rng)
            self.opener = esp.make_open(pair.suite, pair.inbound, rng)
        self.window = ReplayWindow(pair.replay_window)
        self.window_size = pair.replay_window
        self.sequence = 0                          # last number sent (RFC 4303 3.3.3: the first packet has 1)
        self.alarm_sequence = SOFT_EXTENDED_SEQUENCE if self.esn else SOFT_SEQUENCE
        self.last_sequence = LAST_EXTENDED_SEQUENCE if self.esn else LAST_SEQUENCE
        self.inward = Meter(pair.volume)
        self.outward = Meter(pair.volume)
        self.heard = False                         # an authenticated packet came
        self.refusal: DropReason | None = None     # why nothing more is sent
        self.flows: dict[FlowKey, bool] = {}       # inbound flows that passed the selectors
        self.drops: dict[DropReason, int] = {}

    def selects(self, flow: spd.Flow) -> bool:
        """Return whether the negotiated selectors take the flow."""
        return spd.selects(self.ts_local, self.ts_remote, flow)

    def hides_ports(self, flow: spd.Flow) -> bool:
        """Return whether only ports that the packet does not show keep it out (RFC 4301 7)."""
        return spd.selects_but_for_ports(self.ts_local, self.ts_remote, flow)

    def stats(self) -> SaStats:
        """Return a reading of the counters."""
        return SaStats(packets_in=self.inward.packets, bytes_in=self.inward.bytes, packets_out=self.outward.packets,
                       bytes_out=self.outward.bytes, last_in=self.inward.last, last_out=self.outward.last,
                       lost_in=self.window.lost)


class Sad:
    """All installed pairs."""

    def __init__(self) -> None:
        self.by_spi: dict[int, Pair] = {}
        self.esp: dict[int, Pair] = {}             # of them those of ESP: an SPI belongs to a protocol (RFC 4301 4.1)
        self.ah: dict[int, Pair] = {}
        self._sending: dict[ChildKey, Slots[Pair]] = {}

    def install(self, pair: Pair) -> None:
        """Accept what arrives on the pair; sending waits for `use`.  A pair of the same inbound SPI is replaced."""
        self.remove(pair.spi_in)
        self.by_spi[pair.spi_in] = pair
        (self.esp if pair.ah is None else self.ah)[pair.spi_in] = pair

    def use(self, child: ChildKey, spi_in: int) -> bool:
        """Send the slot's traffic on this pair; return False when it is not installed for that child."""
        pair = self.by_spi.get(spi_in)
        if pair is None or pair.child != child:
            return False
        if child not in self._sending:
            self._sending[child] = Slots()
        self._sending[child].set(pair)
        return True

    def remove(self, spi_in: int) -> Pair | None:
        """Forget a pair; return it, None when it was not installed."""
        pair = self.by_spi.pop(spi_in, None)
        if pair is None:
            return None
        del (self.esp if pair.ah is None else self.ah)[spi_in]
        slots = self._sending.get(pair.child)
        if slots is not None:
            slots.remove(pair)
            if not slots:
                del self._sending[pair.child]
        return pair

    def choose(self, child: ChildKey, flow: spd.Flow) -> Pair | DropReason:
        """Return the pair of a child that a flow goes on, or why there is none."""
        slots = self._sending.get(child)
        if slots is None:
            return DropReason.NO_SA
        pairs = slots.candidates(flow)
        for pair in pairs:
            if pair.selects(flow):
                return pair
        hidden = any(pair.hides_ports(flow) for pair in pairs)
        return DropReason.OUTBOUND_FRAGMENT if hidden else DropReason.OUTSIDE_NEGOTIATED

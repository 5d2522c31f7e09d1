"""Which pair sends for each slot: the effects of IKE SAs on their way to the engine, with what one removal implies.

A slot has more than one pair while it is rekeyed, and where both ends made one.  When the pair that sends goes, another
one that carries traffic takes over before it.
"""

from __future__ import annotations

from ipsecd.effects import Effect, InstallSa, RemoveSa, UseOutbound
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.sa_table import SaTable
from ipsecd.ike.session import Authenticated
from ipsecd.reports import Report
from ipsecd.sa import ChildKey

Slot = tuple[ChildKey, int]


class Outbounds:
    """The sending pair of each slot, and the IKE SA of each pair."""

    def __init__(self, table: SaTable) -> None:
        self._table = table
        self._by_slot: dict[Slot, int] = {}
        self._by_pair: dict[int, Slot] = {}

    def translate(self, sa: IkeSa, effects: list[Effect | Report]) -> Authenticated | None:
        """Move the outputs of an IKE SA to `effects`; return its signal, if it gave one."""
        signal: Authenticated | None = None
        outputs, sa.session.outputs = sa.session.outputs, []
        for output in outputs:
            match output:
                case Authenticated():
                    signal = output
                    continue
                case InstallSa():
                    self._table.install(output.pair.spi_in, sa)
                case UseOutbound():
                    child = sa.session.children.get(output.spi_in)
                    if child is not None:
                        self._send_on((output.child, child.pair.slot), output.spi_in)
                case RemoveSa():
                    self._table.by_child.pop(output.spi_in, None)
                    effects += self._replace(sa.session.peer.name, output.spi_in)
                case _:
                    pass
            effects.append(output)
        return signal

    def _send_on(self, slot: Slot, spi_in: int) -> None:
        before = self._by_slot.get(slot)
        if before is not None:
            self._by_pair.pop(before, None)
        self._by_slot[slot] = spi_in
        self._by_pair[spi_in] = slot

    def _replace(self, peer: str, spi_in: int) -> list[Effect]:
        slot = self._by_pair.pop(spi_in, None)
        if slot is None:
            return []
        del self._by_slot[slot]
        other = next(self._table.same_slot(peer, *slot, but=spi_in), None)
        if other is None:
            return []
        self._send_on(slot, other)
        return [UseOutbound(slot[0], other)]

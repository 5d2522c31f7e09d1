"""The way of datagrams that waited for their SA, once it stands."""

from __future__ import annotations

from ipsecd.ipsec.ah_inbound import open_ah
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.ip import AH, ESP


def open_early(plane: Dataplane, spi_in: int, now: float) -> list[tuple[str, bytes]]:
    """Open what came ahead of an SA that was installed just now; return (device, packet) of what may be delivered."""
    pair, delivered = plane.sad.by_spi[spi_in], list[tuple[str, bytes]]()
    for early in plane.early.take(spi_in, ESP if pair.ah is None else AH, now):
        if pair.ah is None:
            packet = plane.open(pair, early.data, 0, len(early.data), early.path, early.tos, early.now)
        else:
            opened = open_ah(plane, early.data, early.path, early.now)
            packet = opened.packet if isinstance(opened, tuple) else opened
        if type(packet) is bytes:
            delivered.append((pair.device, packet))
    return delivered

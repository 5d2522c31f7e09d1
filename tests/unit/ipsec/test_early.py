"""Datagrams that came ahead of their SA: which wait, how long, and how many."""

from __future__ import annotations

from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.early import MAX_AGE_S, MAX_BYTES, MAX_DATAGRAMS, Datagram, Early
from ipsecd.ipsec.early_inbound import open_early
from ipsecd.ipsec.ip import AH, ESP
from ipsecd.sa import Path
from tests.support import ah_packets as a
from tests.support import esp_packets as p

PATH = Path(p.A_OUTSIDE, p.B_OUTSIDE)


def datagram(spi: int, data: bytes, now: float = 0.0, protocol: int = ESP) -> Datagram:
    return Datagram(spi, protocol, data, PATH, 0, now)


def test_own_spi_is_taken_once_in_order_and_only_while_young() -> None:
    early = Early()
    for spi, data, now in ((7, b"a", 0.9), (7, b"b", 1.5), (8, b"c", 1.6), (7, b"d", 1.7)):
        early.keep(datagram(spi, data, now))
    early.keep(datagram(7, b"e", 1.8, AH))
    assert [waiting.data for waiting in early.take(7, ESP, 2.0)] == [b"b", b"d"]
    assert early.take(7, ESP, 2.0) == []
    assert [waiting.data for waiting in early.take(7, AH, 1.8 + MAX_AGE_S)] == [b"e"]


def test_what_waits_is_bounded_in_number_and_bytes() -> None:
    early = Early()
    for number in range(2 * MAX_DATAGRAMS):
        early.keep(datagram(7, number.to_bytes(4, "big")))
    kept = [int.from_bytes(waiting.data, "big") for waiting in early.take(7, ESP, 0.0)]
    assert kept == list(range(MAX_DATAGRAMS, 2 * MAX_DATAGRAMS))
    for _ in range(20):
        early.keep(datagram(7, bytes(MAX_BYTES // 8)))
    assert len(early.take(7, ESP, 0.0)) == 8


def test_what_waited_is_opened_as_any_other_and_what_was_forged_is_counted() -> None:
    near, far = Dataplane(p.SeededRng()), Dataplane(p.SeededRng())
    near.install_sa(p.pair())
    sealed = near.seal(near.sad.by_spi[0x1000], p.ipv4(), 1.0)
    assert isinstance(sealed, bytes)
    for data in (sealed, sealed[:-1] + bytes((sealed[-1] ^ 1,)), sealed):
        far.early.keep(datagram(0x2000, data, 1.0))
    far.install_sa(p.pair(mirror=True))
    assert open_early(far, 0x2000, 1.5) == [("ipsec0", p.ipv4())]
    assert far.drops == {"esp_replayed": 2}
    assert open_early(far, 0x2000, 1.5) == []


def test_ah_that_came_early_is_opened_by_an_sa_of_ah_alone() -> None:
    near, far = Dataplane(p.SeededRng()), Dataplane(p.SeededRng())
    near.install_sa(a.pair())
    sealed = near.seal(near.sad.by_spi[0x1000], p.ipv4(), 1.0)
    assert isinstance(sealed, bytes)
    far.early.keep(datagram(0x2000, sealed, 1.0, AH))
    far.install_sa(p.pair(mirror=True))
    assert open_early(far, 0x2000, 1.5) == []
    far.install_sa(a.pair(mirror=True))
    assert open_early(far, 0x2000, 1.5) == [("ipsec0", p.ipv4())]

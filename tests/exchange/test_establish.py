"""IKE_SA_INIT and IKE_AUTH between two real endpoints: the shape of the exchange, and what both ends have after it."""

from __future__ import annotations

from ipsecd.events import IkeSaUp
from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import ChildUp, IkeUp
from tests.support.exchange import Two


def test_establishment_gives_both_ends_one_ike_sa_and_one_child() -> None:
    # IN-01: HDR, SAi1, KEi, Ni, N(NATD)+  -->  <-- HDR, SAr1, KEr, Nr, N(NATD)+
    # HDR, SK {IDi, IDr, AUTH, SAi2, TSi, TSr}  -->  <-- HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
    two = Two()
    handle = two.establish()
    two.check(children=1)
    assert [r.handle for r in two.a.reports(IkeUp)] == [handle]
    assert [r.initiator for r in two.a.reports(IkeUp) + two.b.reports(IkeUp)] == [True, False]
    assert len(two.b.reports(ChildUp)) == 1
    assert [d.header.exchange for d in two.net.sent] == [ExchangeType.IKE_SA_INIT] * 2 + [ExchangeType.IKE_AUTH] * 2


def test_everything_after_init_runs_on_port_4500_without_any_nat() -> None:
    # IN-50
    two = Two()
    two.establish()
    assert [(d.source.port, d.destination.port) for d in two.net.sent] == [(500, 500)] * 2 + [(4500, 4500)] * 2
    assert two.a.last_event(IkeSaUp).nat == two.b.last_event(IkeSaUp).nat == "none"
    assert next(iter(two.b.pairs.values())).path.remote.port == 4500

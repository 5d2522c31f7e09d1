"""Probing the size of the path with padded INFORMATIONAL requests, on paths that lose what is larger than they carry.

    SK{ N(61443) ... } -->            one datagram of exactly the size that is tried
    <-- SK{ }
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import SetPathMtu
from ipsecd.events import PathMtuChanged, Warned
from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.pmtud import BASE_BYTES
from ipsecd.ike.sizing import FIRST_LOOKS_PER_S, MAX_PROBED_BYTES, PathSizes
from ipsecd.ike.tasks.path_probe import PIECE_BYTES
from ipsecd.policy import IkePolicy
from ipsecd.reports import ChildMoved, IkeGone
from ipsecd.sa import LinkSize
from tests.support.exchange import Two, ike, ike_policy, policy_a, policy_b
from tests.support.nat import Datagram
from tests.support.sim import Host, sent_by


def up(ike: IkePolicy | None = None, other: IkePolicy | None = None, **options: object) -> Two:
    two = Two(policy_a(ike=ike or ike_policy()), policy_b(ike=other or ike_policy()), **options)
    two.establish()
    return two


def ip_bytes(datagram: Datagram) -> int:
    return (40 if ":" in datagram.source.address else 20) + 8 + 4 + len(datagram.data)


def carry(two: Two, size: int) -> None:
    """The path from a to b carries IP datagrams of this size from now on."""
    two.net.heal()
    two.net.drop(sent_by(two.a, lambda d: ip_bytes(d) > size))


def measured(two: Two, link: int = 1500, hint: int = 0, host: Host | None = None) -> None:
    host = host or two.a
    for spi in tuple(host.pairs):
        host.endpoint.path_evidence(spi, LinkSize(link, hint), two.net.now)
    host.collect()


def establish_anew(two: Two) -> None:
    """A second IKE SA: what was reported of the first is forgotten."""
    two.a.log.clear()
    two.b.log.clear()
    two.establish()


def large(two: Two) -> None:
    for spi in tuple(two.a.pairs):
        two.a.endpoint.path_evidence(spi, None, two.net.now)
    two.a.collect()


def size(two: Two) -> tuple[int | None, str]:
    """What status shows, and what the edge was told last agrees."""
    view = two.a.established()[-1]
    told = two.a.reports(SetPathMtu)
    assert view.path_mtu is None or told[-1].size_bytes == (0 if view.path_mtu_origin == "route" else view.path_mtu)
    return view.path_mtu, view.path_mtu_origin


def probes_of(two: Two, since: int = 0) -> list[Datagram]:
    """Requests of a that went out whole and padded."""
    return [d for d in two.net.sent[since:] if d.source.address == two.a.address and not d.header.is_response
            and d.header.exchange == ExchangeType.INFORMATIONAL and d.header.next_payload == PayloadType.SK
            and len(d.data) > 500]


@pytest.mark.parametrize("suite", ["aes256gcm16-prfsha256-x25519", "chacha20poly1305-prfsha256-x25519"])
@pytest.mark.parametrize("link", [1500, 1492, 4000, 9000])
def test_probe_is_one_datagram_of_exactly_the_size_and_its_answer_proves_it(suite: str, link: int) -> None:
    two = up(ike_policy(proposals=(ike(suite),)), ike_policy(proposals=(ike(suite),)))
    measured(two, link)
    two.net.run(5)
    assert [ip_bytes(d) for d in probes_of(two)] == [BASE_BYTES, link]
    assert size(two) == (link, "route")
    two.check()


def test_probe_under_a_block_cipher_is_as_large_as_its_blocks_allow() -> None:
    cbc = ike_policy(proposals=(ike("aes256-sha256-prfsha256-x25519"),))
    two = up(cbc, cbc)
    measured(two)
    two.net.run(5)
    assert 1500 - 16 < ip_bytes(probes_of(two)[-1]) <= 1500
    assert size(two) == (1500, "route")


def test_black_hole_at_1300_is_left_within_two_seconds_and_the_size_found() -> None:
    two = up()
    measured(two)
    two.net.run(5)
    carry(two, 1300)
    large(two)
    began = two.net.now
    two.net.run_until(lambda: size(two)[0] == BASE_BYTES, limit_s=2)
    two.net.run_until(lambda: size(two) == (1300, "probed"), limit_s=10 - (two.net.now - began))
    changes = two.a.events(PathMtuChanged)
    assert [(e.size_bytes, e.origin) for e in changes][::len(changes) - 1] == [(BASE_BYTES, "base"), (1300, "probed")]
    two.check()


def test_probe_that_is_lost_comes_through_in_pieces_and_leaves_the_window_free() -> None:
    two = up()
    carry(two, 1300)
    measured(two)
    two.net.run_until(lambda: len(probes_of(two)) == 2, limit_s=5)
    lost = probes_of(two)[-1]
    two.net.run(2)
    same = [d for d in two.net.sent if d.header.message_id == lost.header.message_id and d.source == lost.source
            and d.header.exchange == ExchangeType.INFORMATIONAL]
    assert [d.data for d in same if d.header.next_payload == PayloadType.SK] == [lost.data] * 2   # repeated to the bit
    pieces = [ip_bytes(d) for d in same if d.header.next_payload == PayloadType.SKF]
    assert len(pieces) > 1
    assert max(pieces) <= PIECE_BYTES
    two.net.run(60)
    assert size(two) == (1300, "probed")
    two.check()


@pytest.mark.parametrize("waiting", ["rekey", "delete"])
def test_lost_probe_delays_no_other_request(waiting: str) -> None:
    two = up()
    carry(two, 1300)
    measured(two)
    two.net.run_until(lambda: len(probes_of(two)) == 2, limit_s=5)
    (spi,) = two.a.pairs
    if waiting == "rekey":
        two.a.endpoint.rekey_child(spi, two.net.now)
        done: Callable[[], bool] = lambda: bool(two.a.reports(ChildMoved))  # noqa: E731
    else:
        two.a.endpoint.delete_child(spi, two.net.now, Cause.OPERATOR)
        done = lambda: not two.a.pairs  # noqa: E731
    two.a.collect()
    two.net.run_until(done, limit_s=6 * two.net.latency_s)


def test_answer_lost_to_a_probe_is_given_again_to_its_pieces() -> None:
    two = up()
    measured(two)
    two.net.run_until(lambda: len(probes_of(two)) == 1, limit_s=5)
    two.net.drop(sent_by(two.b))
    two.net.run(1.9)
    two.net.heal()
    # The pieces alone: the whole datagram would be known by its digest.
    two.net.drop(sent_by(two.a, lambda d: d.header.next_payload == PayloadType.SK and len(d.data) > 500))
    two.net.run(3)
    assert not two.a.reports(IkeGone)
    two.net.heal()
    two.net.run(100)
    assert size(two) == (1500, "route")
    two.check()


def test_dead_peer_is_found_dead_and_no_narrow_path_is_made_of_it() -> None:
    two = up(ike_policy(dpd_s=5, dpd_timeout_s=20))
    measured(two)
    two.net.run(5)
    two.b.alive = False
    large(two)
    two.net.run(30)
    assert [g.failure.cause for g in two.a.reports(IkeGone)] == [Cause.PEER_DEAD]
    assert two.a.events(PathMtuChanged) == []


def test_loss_on_the_way_lowers_nothing() -> None:
    two = up(seed="a tenth")
    measured(two)
    two.net.run(10)
    two.net.loss = 0.1
    for _ in range(20):
        large(two)
        two.net.run(3)
    two.net.heal()
    large(two)
    two.net.run(60)
    assert size(two)[0] == 1500


def test_forged_icmp_moves_nothing_and_costs_a_probe_at_most() -> None:
    two = up()
    measured(two)
    two.net.run(5)
    before = len(two.net.sent)
    for hint in (576, 600, 576, 68, 1):
        measured(two, hint=hint)
        two.net.run(5)
    assert len(probes_of(two, before)) <= 3
    assert two.a.events(PathMtuChanged) == []
    assert size(two) == (1500, "route")


def test_each_end_finds_its_own_direction() -> None:
    two = up()
    carry(two, 1400)
    for host in (two.a, two.b):
        measured(two, host=host)
    two.net.run(60)
    assert size(two) == (1400, "probed")
    assert two.b.established()[-1].path_mtu == 1500


def test_size_survives_ike_rekey_and_reauthentication() -> None:
    two = up()
    carry(two, 1300)
    measured(two)
    two.net.run(30)
    (ike_sa,) = two.a.established()
    two.a.endpoint.rekey_ike(ike_sa.handle, two.net.now)
    two.a.collect()
    two.net.run(5)
    assert size(two) == (1300, "probed")
    two.a.endpoint.delete_ike(ike_sa.handle, two.net.now, Cause.OPERATOR)
    two.a.collect()
    two.net.run(5)
    establish_anew(two)
    measured(two)
    two.net.run(0.1)
    assert size(two) == (1300, "probed")               # where a new IKE SA on the same path begins


def test_link_that_narrows_is_followed_at_once() -> None:
    two = up()
    measured(two)
    two.net.run(5)
    measured(two, 1400)
    assert size(two) == (1400, "route")
    before = len(two.net.sent)
    two.net.run(5)
    assert max(ip_bytes(d) for d in two.net.sent[before:]) == 1400


@pytest.mark.parametrize("changes", [{"probe_path": False}, {"fragment_bytes": 0}])
def test_nothing_is_probed_where_the_entry_says_no_or_nothing_could_be_repeated_in_pieces(
        changes: dict[str, object]) -> None:
    two = up(ike_policy(**changes))
    measured(two)
    large(two)
    two.net.run(5)
    assert probes_of(two) == []
    assert size(two) == (None, "")


def test_probing_ends_with_a_reload_that_says_so() -> None:
    two = up()
    carry(two, 1300)
    measured(two)
    two.net.run(30)
    two.a.endpoint.replace_policy(policy_a(ike=ike_policy(probe_path=False)), two.net.now)
    measured(two)
    before = len(two.net.sent)
    two.net.run(2000)
    assert probes_of(two, before) == []
    assert size(two) == (None, "")


def test_link_without_a_bound_is_not_probed() -> None:
    two = up()
    measured(two, MAX_PROBED_BYTES + 1)
    two.net.run(5)
    assert probes_of(two) == []


def test_peer_that_falls_silent_over_probes_is_probed_no_more() -> None:
    two = Two(policy_a(ike=ike_policy(dpd_s=5, dpd_timeout_s=10)))
    for _ in range(2):
        two.net.heal()
        establish_anew(two)
        # A peer that reads no notify of private use, in any form.
        two.net.drop(sent_by(two.a, lambda d: d.header.exchange == ExchangeType.INFORMATIONAL and len(d.data) > 300))
        measured(two)
        two.net.run(20)
        assert [g.failure.cause for g in two.a.reports(IkeGone)] == [Cause.PEER_DEAD]
    assert [e.what for e in two.a.events(Warned)] == ["path_not_probed"]
    establish_anew(two)
    measured(two)
    two.net.run(60)
    assert size(two) == (None, "")
    two.check()


def test_path_below_the_base_is_warned_about_and_used_as_it_is() -> None:
    two = up()
    carry(two, 1000)
    measured(two)
    two.net.run(40)
    assert size(two)[1] == "probed"
    assert 1000 - 8 <= (size(two)[0] or 0) <= 1000
    assert [e.what for e in two.a.events(Warned)] == ["path_below_base"]


def test_idle_path_is_not_probed_again() -> None:
    two = up()
    measured(two)
    two.net.run(5)
    before = len(two.net.sent)
    two.net.run(2000)
    assert probes_of(two, before) == []


def test_paths_of_tunnels_that_come_up_together_are_looked_at_one_by_one() -> None:
    sizes = PathSizes()
    turns = [sizes.turn(100.0) for _ in range(500)]
    assert turns[0] == 100.0
    assert turns[-1] == pytest.approx(100.0 + 499 / FIRST_LOOKS_PER_S)
    assert sizes.turn(1000.0) == 1000.0

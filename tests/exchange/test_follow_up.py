"""Additional key exchanges behind CREATE_CHILD_SA: IKE_FOLLOWUP_KE (RFC 9370 2.2.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.events import ChildFailed, LocalFault
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType, TransformType
from ipsecd.ike.tasks.follow_up import FOLLOW_UP_LIFE_S, MAX_FOLLOW_UPS, FollowUpDue, follow_up
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import KePayload
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved, ChildUp, IkeGone
from tests.exchange.test_message_layer import answers_to, say
from tests.support.exchange import Two, esp, ike, ike_policy, policy_a, policy_b
from tests.support.sim import Host, exchange, sent_by

CREATE, FOLLOW_UP = ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_FOLLOWUP_KE
IKE = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")
ESP = esp("aes256gcm16-x25519-ke1_mlkem768-ke2_mlkem1024")
EACH_LOWEST = pytest.mark.parametrize(("n1", "n2", "n3", "n4"),
                                      [(1, 5, 5, 5), (5, 1, 5, 5), (5, 5, 1, 5), (5, 5, 5, 1)])


def up(seed: object = 0, *, pfs: Pfs = Pfs.REQUIRED) -> Two:
    two = Two(policy_a("lan", "voice", ike=ike_policy(proposals=(IKE,)), proposals=(ESP,), pfs=pfs),
              policy_b("lan", "voice", ike=ike_policy(proposals=(IKE,)), proposals=(ESP,), pfs=pfs), seed=seed)
    two.establish()
    return two


def rekey_child(two: Two, host: Host) -> None:
    host.endpoint.rekey_child(two.pair(host), two.net.now)
    host.collect()


def rekey_ike(two: Two, host: Host) -> None:
    host.endpoint.rekey_ike(next(iter(host.endpoint._table.current)), two.net.now)
    host.collect()


def healthy(two: Two) -> None:
    for host in (two.a, two.b):
        assert not host.events(LocalFault)
        assert not host.reports(IkeGone)
        assert not host.dark


def test_new_child_is_made_with_its_last_key_exchange() -> None:
    # CREATE_CHILD_SA { SA, Ni, KEi, TSi, TSr } -->
    # <-- CREATE_CHILD_SA { SA, Nr, KEr, TSi, TSr, N(ADDITIONAL_KEY_EXCHANGE) }
    # IKE_FOLLOWUP_KE { KEi(1), N(ADDITIONAL_KEY_EXCHANGE) } -->
    # <-- IKE_FOLLOWUP_KE { KEr(1), N(ADDITIONAL_KEY_EXCHANGE) }
    # IKE_FOLLOWUP_KE { KEi(2), N(ADDITIONAL_KEY_EXCHANGE) } -->
    # <-- IKE_FOLLOWUP_KE { KEr(2) }
    two = Two(*(make("lan", "voice", ike=ike_policy(proposals=(IKE,)), proposals=(ESP,), pfs=Pfs.REQUIRED)
                for make in (policy_a, policy_b)))
    two.establish("lan", "voice")           # which compares the keys of the pairs on both ends
    assert {str(p.suite) for p in two.a.pairs.values()} == {
        "aes256gcm16-esn", "aes256gcm16-x25519-ke1_mlkem768-ke2_mlkem1024-esn"}
    assert len({d.header.message_id for d in two.net.sent if d.header.exchange == FOLLOW_UP}) == 2


@pytest.mark.parametrize("side", ["a", "b"])
def test_child_rekey_moves_the_traffic_with_the_last_key_exchange(side: str) -> None:
    two = up()
    rekey_child(two, two.net.hosts[side])
    two.net.run(LINGER_S + 2)
    two.check(children=1)
    healthy(two)
    assert len(two.a.reports(ChildMoved)) == len(two.b.reports(ChildMoved)) == 1
    assert next(iter(two.a.pairs.values())).suite.additional


@pytest.mark.parametrize("side", ["a", "b"])
def test_ike_rekey_hands_over_with_the_last_key_exchange(side: str) -> None:
    two = up()
    rekey_ike(two, two.net.hosts[side])
    two.net.run(LINGER_S + 2)
    two.check(children=1)
    healthy(two)
    assert {v.suite for h in (two.a, two.b) for v in h.endpoint.views()} == {str(IKE)}
    rekey_child(two, two.a)
    two.net.run(LINGER_S + 2)
    two.check(children=1)


@pytest.mark.parametrize("seed", range(4))
def test_rekeys_under_loss_duplication_and_reordering_end_well(seed: int) -> None:
    two = up(seed)
    two.net.loss, two.net.duplicate, two.net.reorder_s = 0.15, 0.2, 0.05
    rekey_child(two, two.a)
    two.net.run(60)
    rekey_ike(two, two.b)
    two.net.run(120)
    two.net.heal()
    two.net.run(200)
    two.check(children=1)
    healthy(two)


@EACH_LOWEST
@pytest.mark.parametrize("held", [None, CREATE, FOLLOW_UP])
def test_crossing_child_rekeys_leave_one_pair_without_flap(n1: int, n2: int, n3: int, n4: int,
                                                          held: ExchangeType | None) -> None:
    two = up()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    if held is not None:
        two.net.hold(sent_by(two.a, exchange(held, response=True)))
    rekey_child(two, two.a)
    rekey_child(two, two.b)
    two.net.run(0.3)
    two.net.release()
    two.net.run(LINGER_S + 2)
    two.check(children=1)
    healthy(two)
    for host in (two.a, two.b):
        assert len(host.reports(ChildMoved)) == len(host.reports(ChildUp)) == 1
        assert not host.reports(ChildGone)


@EACH_LOWEST
@pytest.mark.parametrize("held", [None, CREATE, FOLLOW_UP])
def test_crossing_ike_rekeys_leave_one_ike_sa(n1: int, n2: int, n3: int, n4: int, held: ExchangeType | None) -> None:
    two = up()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    if held is not None:
        two.net.hold(sent_by(two.b, exchange(held, response=True)))
    rekey_ike(two, two.a)
    rekey_ike(two, two.b)
    two.net.run(0.3)
    two.net.release()
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@EACH_LOWEST
@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_end_that_lost_a_collision_begins_no_further_key_exchange(n1: int, n2: int, n3: int, n4: int,
                                                                  what: Callable[[Two, Host], None]) -> None:
    # RFC 9370 2.2.4: who used the lowest nonce "MUST NOT initiate the IKE_FOLLOWUP_KE exchange"
    two = up()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    what(two, two.a)
    what(two, two.b)
    two.net.run(1)
    loser, winner = (two.a, two.b) if 1 in (n1, n3) else (two.b, two.a)
    asked = {d.source.address for d in two.net.sent if d.header.exchange == FOLLOW_UP and not d.header.is_response}
    assert asked == {winner.address}
    assert not any(sa.session.follow_ups for host in (loser, winner) for sa in host.endpoint._table.sas.values())
    two.net.run(LINGER_S + 2)
    two.check(children=1)
    healthy(two)
    assert not loser.events(ChildFailed)


@EACH_LOWEST
@pytest.mark.parametrize("slow", [(0.3, 0.07), (0.07, 0.3), (0.03, 0.03), (0.05, 0.0), (0.0, 0.05), (0.015, 0.045)])
@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_collision_is_resolved_whatever_arrives_during_slow_work(
        n1: int, n2: int, n3: int, n4: int, slow: tuple[float, float], what: Callable[[Two, Host], None]) -> None:
    two = up()
    two.a.rng.pin_nonce(n1, n4)
    two.b.rng.pin_nonce(n2, n3)
    two.a.work_s, two.b.work_s = slow
    what(two, two.a)
    what(two, two.b)
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_series_that_goes_on_while_our_own_is_decided_still_wins(what: Callable[[Two, Host], None]) -> None:
    # B's response to A and its IKE_FOLLOWUP_KE come together: A works on both at once.
    two = up()
    two.a.rng.pin_nonce(1, 5)
    two.b.rng.pin_nonce(5, 5)
    two.net.hold(sent_by(two.b, exchange(CREATE, response=True)))
    two.net.hold(sent_by(two.b, exchange(FOLLOW_UP, response=False)))
    what(two, two.a)
    what(two, two.b)
    two.net.run(0.3)
    assert len(two.net.held) >= 2
    two.a.work_s = 0.05
    two.net.release()
    two.net.run(0.3)
    assert not [d for d in two.net.sent if sent_by(two.a, exchange(FOLLOW_UP, response=False))(d)]
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_rekey_that_comes_when_ours_goes_on_is_refused_for_now(what: Callable[[Two, Host], None]) -> None:
    # RFC 9370 2.2.4: "a TEMPORARY_FAILURE notification MUST be sent in response to such a request"
    two = up()
    two.net.hold(sent_by(two.b, exchange(CREATE, response=False)))
    what(two, two.b)
    two.net.run(0.05)
    two.net.drop(sent_by(two.b, exchange(FOLLOW_UP, response=True)))
    what(two, two.a)
    two.net.run(0.3)
    two.net.release()
    two.net.run(0.3)
    refusals = [e.event for e in two.a.log if getattr(getattr(e, "event", None), "payloads", None) == (
        "N(TEMPORARY_FAILURE)",)]
    assert len(refusals) == 1
    two.net.heal()
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_empty_answer_to_a_further_key_exchange_fails_the_rekey_alone(what: Callable[[Two, Host], None]) -> None:
    # strongSwan 6.0.6 answers so what it has given up for a rekey of its own.
    two = up()
    two.net.drop(sent_by(two.b, exchange(FOLLOW_UP, response=True)))
    what(two, two.a)
    two.net.run(0.5)
    two.net.heal()
    number = two.a.endpoint._table.current[1].requests.outstanding
    two.net.inject(say(two, two.b, (), kind=FOLLOW_UP, message_id=number, response=True))
    two.net.run(0.2)
    assert two.a.established()
    healthy(two)


@pytest.mark.parametrize("what", [rekey_child, rekey_ike])
def test_other_rekey_during_the_key_exchanges_is_put_off(what: object) -> None:
    two = up()
    other = rekey_ike if what is rekey_child else rekey_child
    two.net.hold(sent_by(two.b, exchange(FOLLOW_UP, response=True)))
    (rekey_child if what is rekey_child else rekey_ike)(two, two.a)
    two.net.run(0.2)
    other(two, two.b)
    two.net.run(0.2)
    two.net.release()
    two.net.run(100)
    two.check(children=1)
    healthy(two)


@pytest.mark.parametrize("payloads", [
    (KePayload(KeId.ML_KEM_768, bytes(1184)),),
    (KePayload(KeId.ML_KEM_768, bytes(1184)), NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, b"no such link"))])
def test_unknown_series_is_answered_by_state_not_found(payloads: tuple[KePayload | NotifyPayload, ...]) -> None:
    two = up()
    sa = two.a.endpoint._table.current[1]
    sa.session.peer = replace(sa.session.peer, ike=replace(sa.session.peer.ike, fragment_bytes=0))
    assert answers_to(two, say(two, two.a, payloads, kind=FOLLOW_UP))
    assert two.b.log[-1].event.payloads == ("N(STATE_NOT_FOUND)",)  # type: ignore[attr-defined]
    assert two.b.established()


def test_unfinished_series_are_bounded() -> None:
    session = up().b.endpoint._table.current[1].session
    for _ in range(3 * MAX_FOLLOW_UPS):
        due = FollowUpDue(ESP.of_type(TransformType.ADDKE1), lambda _, __: (), 0.0, Nonces(b"i" * 32, b"r" * 32), None)
        follow_up(session, due, ())
    assert len(session.follow_ups) == MAX_FOLLOW_UPS


def test_series_that_takes_too_long_is_forgotten() -> None:
    two = up()
    two.net.drop(sent_by(two.a, exchange(FOLLOW_UP)))
    rekey_child(two, two.a)
    two.net.run(1.0)
    due = two.b.endpoint._table.current[1].session.follow_ups
    assert len(due) == 1
    link, = due
    due[link] = replace(due[link], since=due[link].since - FOLLOW_UP_LIFE_S)
    two.net.heal()
    sa = two.a.endpoint._table.current[1]
    sa.session.peer = replace(sa.session.peer, ike=replace(sa.session.peer.ike, fragment_bytes=0))
    ke = KePayload(KeId.ML_KEM_768, bytes(1184))
    number = sa.requests.outstanding
    two.net.inject(say(two, two.a, (ke, NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link)), kind=FOLLOW_UP,
                       message_id=number))
    two.net.run(2.0)
    assert not due
    assert two.a.events(ChildFailed)
    two.check(children=1)


@pytest.mark.parametrize("ke", [KePayload(KeId.ML_KEM_768, bytes(10)), KePayload(KeId.ML_KEM_768, b"\xff" * 1184),
                                KePayload(KeId.ML_KEM_1024, bytes(1568))], ids=["short", "out of range", "other set"])
def test_value_that_does_not_fit_ends_the_series_and_nothing_else(ke: KePayload) -> None:
    two = up()
    two.net.drop(sent_by(two.a, exchange(FOLLOW_UP)))
    rekey_child(two, two.a)
    two.net.run(1.0)
    link, = two.b.endpoint._table.current[1].session.follow_ups
    two.net.heal()
    sa = two.a.endpoint._table.current[1]
    sa.session.peer = replace(sa.session.peer, ike=replace(sa.session.peer.ike, fragment_bytes=0))
    two.net.inject(say(two, two.a, (ke, NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link)), kind=FOLLOW_UP,
                       message_id=sa.requests.outstanding))
    two.net.run(1.0)
    assert not two.b.endpoint._table.current[1].session.follow_ups
    assert two.a.events(ChildFailed)
    two.check(children=1)
    healthy(two)

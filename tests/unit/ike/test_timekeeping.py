"""Deadlines, retransmission, rates, half-open limits, steps and collisions, each alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecd.drops import DropReason
from ipsecd.errors import PeerError
from ipsecd.ike.collisions import Nonces, gives_way
from ipsecd.ike.deadlines import Deadlines
from ipsecd.ike.half_open import CALM_DOWN_S, MAX_HALF_OPEN, PEER_RESERVE, HalfOpens
from ipsecd.ike.retransmit import Retransmission
from ipsecd.ike.steps import Job, StepRunner, Steps, work
from ipsecd.rate import Bucket
from tests.support.seeded_rng import SeededRng


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100)))))
def test_deadlines_agree_with_a_naive_table(steps: list[tuple[int, float | None]]) -> None:
    heap: Deadlines[int] = Deadlines()
    naive: dict[int, float] = {}
    for key, at in steps:
        if at is None:
            heap.cancel(key)
            naive.pop(key, None)
        else:
            heap.arm(key, at, "why")
            naive[key] = at
        first = heap.next()
        assert (first.at if first else None) == min(naive.values(), default=None)
    popped = []
    while (due := heap.pop_due(50)) is not None:
        popped.append(naive.pop(due))
    assert popped == sorted(popped)
    assert all(at > 50 for at in naive.values())
    assert len(heap) == len(naive)


def test_retransmission_grows_and_ends_at_its_limit() -> None:
    rng = SeededRng(1)
    rng.jitter = 0.5
    schedule = Retransmission(rng, now=0.0, give_up_at=15.0)
    times = []
    while not schedule.expired(schedule.next_at):
        times.append(round(schedule.next_at, 2))
        schedule.repeat(schedule.next_at)
    assert times == [0.5, 1.4, 3.02, 5.94, 11.18]
    assert schedule.next_at == 15.0


def test_retransmission_can_be_cut_short_but_never_prolonged() -> None:
    schedule = Retransmission(SeededRng(1), now=0.0, give_up_at=15.0)
    schedule.limit(20.0)
    assert schedule.give_up_at == 15.0
    schedule.limit(0.1)
    assert (schedule.give_up_at, schedule.next_at) == (0.1, 0.1)


def test_bucket_lets_a_burst_and_then_a_rate_through() -> None:
    bucket = Bucket(per_s=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1) for _ in range(3)] == [True, True, False]


def test_bucket_gives_its_rate_over_a_long_time() -> None:
    bucket = Bucket(per_s=20, burst=100, now=0)
    assert sum(bucket.take(n / 1000) for n in range(10_000)) in range(298, 302)


def test_bucket_survives_a_clock_that_goes_back() -> None:
    bucket = Bucket(per_s=1, burst=2, now=100)
    assert [bucket.take(now) for now in (100, 0, 0, 1)] == [True, True, False, True]


def test_half_open_places_for_configured_peers_are_kept_free_of_strangers() -> None:
    half_opens = HalfOpens()
    for number in range(MAX_HALF_OPEN - PEER_RESERVE):
        half_opens.add(number.to_bytes(8, "big"), f"198.51.100.{number % 250}", proved=False)
    assert half_opens.refuse("x", proved=True, peer=False, source_limit=64) == DropReason.IKE_HALF_OPEN_LIMIT
    assert half_opens.refuse("x", proved=True, peer=True, source_limit=64) is None


def test_half_open_places_count_against_a_source_that_proved_its_address_only() -> None:
    half_opens = HalfOpens()
    for number in range(10):
        half_opens.add(number.to_bytes(8, "big"), "a", proved=False)
    assert half_opens.refuse("a", proved=True, peer=True, source_limit=2) is None
    for number in range(10, 12):
        half_opens.add(number.to_bytes(8, "big"), "a", proved=True)
    assert half_opens.refuse("a", proved=True, peer=True, source_limit=2) == DropReason.IKE_HALF_OPEN_LIMIT
    half_opens.remove((10).to_bytes(8, "big"))
    assert half_opens.refuse("a", proved=True, peer=True, source_limit=2) is None


def test_cookies_stay_on_for_the_calm_down_after_the_last_place_is_free() -> None:
    half_opens = HalfOpens()
    for number in range(3):
        half_opens.add(bytes([number]), "a", proved=False)
    assert half_opens.needs_cookie("a", threshold=30, now=0)
    assert not half_opens.needs_cookie("b", threshold=30, now=0)
    for number in range(3):
        half_opens.remove(bytes([number]))
    assert half_opens.needs_cookie("a", threshold=30, now=CALM_DOWN_S - 1)
    assert not half_opens.needs_cookie("a", threshold=30, now=CALM_DOWN_S + 1)
    assert len(half_opens) == 0


@given(st.lists(st.binary(min_size=16, max_size=20), min_size=4, max_size=4, unique=True))
def test_exactly_one_of_two_crossing_exchanges_gives_way(nonces: list[bytes]) -> None:
    ours, theirs = Nonces(*nonces[:2]), Nonces(*nonces[2:])
    assert gives_way(ours, theirs) != gives_way(theirs, ours)
    assert gives_way(ours, theirs) == (min(nonces) in nonces[:2])


def test_shorter_nonce_of_equal_beginning_is_the_lower() -> None:
    assert gives_way(Nonces(bytes(16), b"\xff" * 16), Nonces(bytes(17), b"\xff" * 16))


def _steps(log: list[object]) -> Steps[int]:
    first = yield from work(lambda: 20)
    log.append(first.now)
    second = yield from work(lambda: 22)
    return first.value + second.value


def test_steps_wait_for_each_job_and_end_with_their_result() -> None:
    runner, log = StepRunner(), []
    runner.start(_steps(log), done=lambda value, now: log.append((value, now)), failed=_never, now=1.0)
    for now in (2.0, 3.0):
        (token, job), = runner.take_jobs()
        assert runner.busy
        runner.resume(token, job.run(), now)
    assert log == [2.0, (42, 3.0)]
    assert not runner.busy


def test_what_a_job_raises_is_raised_in_its_step() -> None:
    runner, log = StepRunner(), []
    runner.start(_steps([]), done=_never, failed=lambda error, now: log.append(error), now=0.0)
    (token, _), = runner.take_jobs()
    error = PeerError(7, "bad value")
    runner.resume(token, error, 1.0)
    assert log == [error]


def test_abandoned_steps_never_go_on() -> None:
    runner = StepRunner()
    runner.start(_steps([]), done=_never, failed=_never, now=0.0)
    (token, _), = runner.take_jobs()
    runner.abandon()
    runner.resume(token, 1, 1.0)
    runner.resume(99, 1, 1.0)
    assert not runner.take_jobs()


def test_fault_after_the_last_step_is_a_failure_of_the_steps() -> None:
    runner, log = StepRunner(), []

    def breaks(_: int, __: float) -> None:
        raise ZeroDivisionError

    def nothing() -> Steps[int]:
        yield from ()
        return 1

    runner.start(nothing(), done=breaks, failed=lambda error, now: log.append(type(error)), now=0.0)
    assert log == [ZeroDivisionError]


def _never(*_: object) -> None:
    pytest.fail("this must not be called")


def test_deadlines_of_many_keys_come_due_in_order() -> None:
    heap: Deadlines[int] = Deadlines()
    keys = list(range(1000))
    random.Random(1).shuffle(keys)
    for key in keys:
        heap.arm(key, float(key), str(key))
        heap.arm(key, float(key), "again")
    assert [heap.pop_due(2000) for _ in keys] == list(range(1000))
    assert heap.pop_due(2000) is None
    assert Job(lambda: 1).run() == 1

"""The search for the size of a path, against paths that carry what they carry and lose the rest."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecd.ike import pmtud
from ipsecd.ike.pmtud import BASE_BYTES, LEAST_BYTES, MAX_PROBES, STEP_BYTES, Origin, PathMtu, Phase

ROUND_TRIP_S = 0.02


class Walk:
    """A machine on a path that carries datagrams of up to `carries` bytes, both ways of every probe in no time."""

    def __init__(self, carries: int, *, link: int = 1500, version: int = 4, known: int = 0, grain: int = 1) -> None:
        self.carries = carries
        self.grain = grain
        self.now = 100.0
        self.machine = PathMtu(version=version, link_bytes=link, known_bytes=known, grain_bytes=grain, now=self.now)
        self.tried: list[int] = []

    def step(self) -> None:
        """Probe once, when it is due."""
        machine = self.machine
        self.now = max(self.now, machine.next_at)
        wanted = machine.probe_bytes(self.now)
        sent = wanted // self.grain * self.grain
        self.tried.append(sent)
        patience = machine.patience_s
        if sent <= self.carries:
            self.now += ROUND_TRIP_S
            machine.answered(wanted, sent, ROUND_TRIP_S, self.now)
        else:
            self.now += patience + ROUND_TRIP_S
            machine.lost(sent, self.now)

    def settle(self, *, within_s: float = 60.0) -> float:
        """Probe until nothing is due; return how long that took."""
        began = self.now
        while self.machine.next_at <= self.now:
            self.step()
            assert self.now - began <= within_s, f"{self.tried}"
        return self.now - began


def settled(carries: int, **options: int) -> Walk:
    walk = Walk(carries, **options)
    walk.settle()
    return walk


def test_path_as_wide_as_its_link_costs_two_probes_and_no_more() -> None:
    walk = settled(1500)
    assert walk.tried == [BASE_BYTES, 1500]
    assert (walk.machine.current, walk.machine.origin, walk.machine.next_at) == (1500, Origin.ROUTE, math.inf)


def test_size_in_use_is_the_links_until_probes_are_lost() -> None:
    walk = Walk(1300)
    walk.step()
    for _ in range(MAX_PROBES):
        assert walk.machine.current == 1500
        walk.step()
    assert (walk.machine.current, walk.machine.origin) == (BASE_BYTES, Origin.BASE)


@pytest.mark.parametrize("carries", [1300, 1400, 1454, 1480, 1492])
def test_common_sizes_are_found_to_the_byte(carries: int) -> None:
    walk = settled(carries)
    assert (walk.machine.current, walk.machine.origin, walk.machine.phase) == (carries, Origin.PROBED, Phase.COMPLETE)


@given(carries=st.integers(576, 9100), link=st.integers(576, 9000), version=st.sampled_from((4, 6)),
       grain=st.sampled_from((1, 16)), known=st.integers(0, 9000))
def test_search_ends_close_below_what_the_path_carries(carries: int, link: int, version: int, grain: int,
                                                       known: int) -> None:
    link = max(link, LEAST_BYTES[version])
    walk = Walk(carries, link=link, version=version, grain=grain, known=known)
    walk.settle(within_s=120.0)
    machine = walk.machine
    bound = max(min(carries, link), LEAST_BYTES[version])
    assert machine.current <= bound or link - carries < grain
    assert bound - machine.current <= STEP_BYTES + grain
    assert all(size <= link for size in walk.tried)
    assert machine.origin is (Origin.ROUTE if machine.current == link else machine.origin)
    assert (machine.phase is Phase.ERROR) == (carries < min(BASE_BYTES, link) // grain * grain
                                              or machine.current < min(BASE_BYTES, link))


def test_black_hole_is_left_for_the_base_after_three_losses_and_then_searched() -> None:
    walk = settled(1500)
    walk.carries = 1300
    walk.now += 10
    began = walk.now
    walk.machine.large_sent(walk.now)
    for _ in range(MAX_PROBES):
        assert walk.machine.current == 1500
        walk.step()
    assert walk.machine.current == BASE_BYTES
    assert walk.now - began < 2                        # of the 10 s that the traffic has to be back in
    walk.settle()
    assert (walk.machine.current, walk.machine.origin) == (1300, Origin.PROBED)


def test_large_packets_have_a_size_proved_again_but_not_one_that_just_was() -> None:
    walk = settled(1500)
    walk.machine.large_sent(walk.now + pmtud.CONFIRM_S - 0.1)
    assert walk.machine.next_at == math.inf
    walk.now += pmtud.CONFIRM_S
    walk.machine.large_sent(walk.now)
    assert walk.machine.probe_bytes(walk.machine.next_at) == 1500
    walk.settle()
    assert walk.machine.next_at == math.inf


def test_two_losses_in_a_row_lower_nothing() -> None:
    walk = settled(1500)
    for _ in range(5):
        for carries in (1000, 1000, 1500):
            walk.now += 10
            walk.machine.large_sent(walk.now)
            walk.carries = carries
            walk.step()
    assert (walk.machine.current, walk.machine.phase) == (1500, Phase.COMPLETE)


def test_hint_below_moves_nothing_where_the_size_in_use_still_passes() -> None:
    walk = settled(1500)
    walk.now += 10
    for hint in (600, 1300, 1499):
        walk.machine.measured(1500, hint, walk.now)
        assert walk.machine.current == 1500
        walk.settle()
        walk.now += 10
    assert (walk.machine.current, walk.machine.origin) == (1500, Origin.ROUTE)
    assert walk.tried[2:] == [1500] * 3                # each began one probe, of the size in use


@pytest.mark.parametrize("hint", [0, 68, 575, 1500, 4000])
def test_hint_that_can_be_no_size_begins_nothing(hint: int) -> None:
    walk = settled(1500)
    walk.machine.measured(1500, hint, walk.now + 10)
    assert walk.machine.next_at == math.inf


def test_same_hint_begins_one_probe_only() -> None:
    walk = settled(1500)
    for expected in (1, 0, 0):
        walk.now += 10
        before = len(walk.tried)
        walk.machine.measured(1500, 1300, walk.now)
        walk.settle()
        assert len(walk.tried) - before in (0, expected)


def test_honest_hint_shortens_the_search() -> None:
    blind, told = settled(1500), settled(1500)
    spent = []
    for walk, hint in ((blind, 0), (told, 1300)):
        walk.carries = 1300
        walk.now += 10
        walk.machine.large_sent(walk.now)
        walk.machine.measured(1500, hint, walk.now)
        spent.append(walk.settle())
        assert walk.machine.current == 1300
    assert spent[1] < spent[0]


def test_wider_path_is_found_by_the_raise_timer() -> None:
    walk = settled(1300)
    walk.carries = 1500
    assert walk.machine.next_at - walk.now == pytest.approx(pmtud.RAISE_S)
    walk.now = walk.machine.next_at
    walk.settle()
    assert (walk.machine.current, walk.machine.origin) == (1500, Origin.ROUTE)


def test_raise_that_finds_nothing_keeps_the_size_all_the_time() -> None:
    walk = settled(1300)
    walk.now = walk.machine.next_at
    while walk.machine.next_at <= walk.now:
        walk.step()
        assert walk.machine.current == 1300


@pytest.mark.parametrize(("version", "carries", "expected"), [(4, 1000, 999), (4, 576, 576), (6, 1200, 1280)])
def test_path_that_does_not_carry_the_base_is_an_error_that_is_looked_at_again_soon(
        version: int, carries: int, expected: int) -> None:
    walk = settled(carries, version=version)
    machine = walk.machine
    assert machine.current == expected
    assert machine.phase is Phase.ERROR
    assert machine.next_at - walk.now == pytest.approx(pmtud.ERROR_RETRY_S)
    walk.now = machine.next_at
    while machine.next_at <= walk.now:                 # and meanwhile keeps what was found
        walk.step()
        assert machine.current == expected
    walk.carries, walk.now = 1500, machine.next_at
    walk.settle()
    assert (machine.current, machine.phase) == (1500, Phase.COMPLETE)


def test_narrower_link_counts_at_once() -> None:
    walk = settled(1500)
    walk.machine.measured(1400, 0, walk.now)
    assert (walk.machine.current, walk.machine.origin) == (1400, Origin.ROUTE)
    walk.settle()
    assert max(walk.tried[2:]) == 1400


def test_wider_link_is_followed_where_the_size_was_the_links_and_probed_where_it_was_not() -> None:
    followed, probed = settled(9000), settled(1300)
    for walk in (followed, probed):
        walk.machine.measured(9000, 0, walk.now)
    assert (followed.machine.current, probed.machine.current) == (9000, 1300)
    probed.carries = 9000
    probed.settle()
    assert probed.machine.current == 9000


def test_known_size_is_where_a_new_search_begins() -> None:
    walk = Walk(1300, known=1300)
    assert (walk.machine.current, walk.machine.origin) == (1300, Origin.PROBED)
    while walk.machine.next_at <= walk.now:
        walk.step()
        assert walk.machine.current == 1300


def test_patience_follows_the_round_trip_within_bounds() -> None:
    for round_trip_s, patience_s in ((0.001, 0.5), (0.3, 0.9), (5.0, 2.0)):
        machine = PathMtu(version=4, link_bytes=1500, now=0.0)
        assert machine.patience_s == pmtud.FIRST_PATIENCE_S
        machine.answered(BASE_BYTES, BASE_BYTES, round_trip_s, 0.0)
        assert machine.patience_s == pytest.approx(patience_s)


def test_unclear_probe_is_tried_again_later() -> None:
    walk = Walk(1500)
    walk.machine.unclear(walk.now)
    assert walk.machine.next_at == walk.now + pmtud.UNCLEAR_S
    walk.now = walk.machine.next_at
    walk.settle()
    assert walk.machine.current == 1500


def test_first_probe_waits_for_its_turn_but_not_where_large_packets_flow() -> None:
    idle, busy = (PathMtu(version=4, link_bytes=1500, now=107.0) for _ in range(2))
    busy.large_sent(100.0)
    assert (idle.next_at, busy.next_at) == (107.0, 100.0)
    busy.probe_bytes(100.0)
    busy.unclear(100.0)
    busy.large_sent(100.1)                         # from here on the search has its own time
    assert busy.next_at > 100.1

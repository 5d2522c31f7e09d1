"""Whatever both ends do at once, on whatever network: they come to agree again (tests/support/schedules.py)."""

from __future__ import annotations

import os

import pytest

from tests.support.schedules import PER_WORLD, Step, World, failures, replay, shrink, why_failed

ORDINARY = 6                # worlds of PER_WORLD schedules each
PROOF = 16_000              # schedules, in some 5 minutes of processor time; more by hand, as schedules.py says
ELSEWHERE = 1_000_000       # seeds of the long proof begin here, so that it tries others


def test_gateways_agree_after_every_random_schedule() -> None:
    assert not failures(range(ORDINARY)), "replay() takes what is printed"


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_gateways_agree_after_tens_of_thousands_of_random_schedules() -> None:
    jobs = len(os.sched_getaffinity(0))
    assert not failures(range(ELSEWHERE, ELSEWHERE + PROOF // PER_WORLD), jobs=jobs)


@pytest.mark.parametrize(("seed", "steps"), [
    # Of two crossing IKE SAs the one that gives way is rekeyed before its creator lets it go.
    (2000996, [("down", "b", "lan"), ("renew", "b", "lan", 11, 0.05), ("rekey_ike", "a", "voice", 15, 0.01),
               ("rekey_ike", "a", "lan", 10, 0.005), ("rekey_ike", "b", "voice", 5, 0.01), ("settle",)]),
    # An IKE SA is closed while both rekey it: the peer may have moved to the one that its own rekey made.
    (2001355, [("settle",), ("settle",), ("renew", "b", "voice", 8, 0.02), ("rekey", "a", "voice"),
               ("rekey", "b", "voice"), ("rekey_ike", "a", "voice", 12, 0.3), ("rekey_ike", "b"), ("settle",)]),
    # An IKE SA that a newer one replaced is closed while its Delete waits, with a pair that the peer just made on it.
    (3000009, [("down", "a", "lan", 15, 0.02), ("settle",), ("rekey", "b", "lan", 12, 0.005),
               ("ping", "a", "lan", 5, 2.5), ("delete", "b", "voice", 13, 0.05), ("down", "a", "lan", 1, 0.3),
               ("rekey_ike", "a", "lan", 2, 0.02), ("settle",), ("renew", "b", "lan", 9, 0.3),
               ("rekey", "a", "lan", 15, 0.01), ("rekey", "b"), ("settle",)]),
    # An IKE SA is closed when what a collision left beside it has gone.
    (4000128, [("settle",), ("renew", "a", "voice", 4, 0.3), ("renew", "a", "lan", 12, 0.05),
               ("rekey_ike", "a", "voice", 13, 0.0), ("rekey_ike", "b", "lan", 15, 0.01), ("settle",)]),
])
def test_gateways_agree_after_schedules_that_once_failed(seed: int, steps: list[tuple[object, ...]]) -> None:
    replay(seed, steps)


@pytest.mark.parametrize("point", ["send", "receive", "work", "timer"])
@pytest.mark.parametrize("how", ["drop", "delay", "repeat", "corrupt"])
def test_fault_on_our_own_side_is_healed(point: str, how: str) -> None:
    number = 4 * ["send", "receive", "work", "timer"].index(point) + ["drop", "delay", "repeat", "corrupt"].index(how)
    steps = [Step("settle")]
    for what in ("rekey", "rekey_ike", "delete", "renew"):
        steps += [Step("impair", "a", number=number), Step("impair", "b", number=number), Step(what, "a"),
                  Step("settle")]
    rough = next(seed for seed in range(50) if not World(seed).calm)
    assert why_failed(rough, steps) is None


def test_failing_schedule_shrinks_to_what_it_needs() -> None:
    steps = [Step("ping", number=n) for n in range(40)]
    steps[7], steps[31] = Step("restart"), Step("rekey")

    def fails(rest: list[Step] | tuple[Step, ...]) -> bool:
        names = [s.what for s in rest]
        return "rekey" in names and "restart" in names[:names.index("rekey")]

    assert shrink(steps, lambda rest: fails(list(rest))) == [Step("restart"), Step("rekey")]

"""Every target over its seeds, its corpus and mutations of both: nothing but what is declared comes out."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import corpus, mutants
from tests.fuzz.targets import TARGETS

# How many mutants take about two seconds on one core; a target that makes IKE SAs costs the most.
COUNTS = {"wire": 4000, "clear": 250, "opened": 150, "certificate": 500, "config": 250, "packet": 600}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_end_as_the_target_declares(name: str) -> None:
    explore(name, COUNTS[name])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_many_more_mutants_end_as_the_target_declares(name: str) -> None:
    explore(name, 50 * COUNTS[name])


def test_mutants_are_the_same_each_time_and_differ_from_their_seeds() -> None:
    first, second = (list(mutants([b"abcdef", b"0123"], 50)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 30


def explore(name: str, count: int) -> None:
    target = TARGETS[name]
    for data in mutants([*target.seeds(), *corpus(name)], count):
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}; input {data.hex()}") from error

from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.intervals import Box, Range, disjoint, merge, prefixes, subtract, without

POINTS = range(9)
ranges = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda r: (min(r), max(r)))
boxes = st.tuples(ranges, ranges, ranges)


@given(st.lists(ranges))
def test_merge_keeps_every_number_and_leaves_a_gap_between_ranges(given_ranges: list[Range]) -> None:
    merged = merge(given_ranges)
    assert numbers(merged) == numbers(given_ranges)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(merged))


@given(st.lists(ranges), st.lists(ranges))
def test_without_keeps_exactly_what_no_hole_has(some: list[Range], holes: list[Range]) -> None:
    assert numbers(without(some, holes)) == numbers(some) - numbers(holes)


@given(boxes, boxes)
def test_subtract_leaves_the_points_of_the_first_box_alone(box: Box, other: Box) -> None:
    parts = subtract(box, other)
    assert points(parts) == points([box]) - points([other])
    assert overlaps(parts) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, max_size=6))
def test_disjoint_boxes_hold_the_same_points_each_once(given_boxes: list[Box]) -> None:
    cut = disjoint(given_boxes)
    assert points(cut) == points(given_boxes)
    assert overlaps(cut) == 0


def test_disjoint_takes_thousands_of_separate_ranges_on_either_side() -> None:
    found: list[Box] = [((i * 4, i * 4 + 3), (0, 9)) for i in range(3000)]
    assert disjoint(found) == found
    assert len(disjoint([(b, a) for a, b in found])) == 3000


def test_prefixes_are_the_fewest() -> None:
    assert prefixes(4, [(0x0A000001, 0x0A000004)]) == ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]
    assert prefixes(6, [(0, 2 ** 128 - 1)]) == ["::/0"]


def numbers(found: object) -> set[int]:
    return {n for low, high in found for n in range(low, high + 1)}  # type: ignore[attr-defined]


def points(found: list[Box]) -> set[tuple[int, ...]]:
    return {p for box in found for p in product(*(range(low, high + 1) for low, high in box))}


def overlaps(found: list[Box]) -> int:
    return sum(len(points([box])) for box in found) - len(points(found))

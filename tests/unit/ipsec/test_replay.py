"""Anti-replay window and extended sequence numbers (RFC 4303 3.4.3, appendix A)."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.replay import ReplayWindow, full_sequence

SIZES = [64, 128, 1024, 8192]
EPOCH = 1 << 32


@pytest.mark.parametrize("size", SIZES)
class TestWindow:
    def test_first_packet_has_number_one_and_zero_is_never_valid(self, size: int) -> None:
        window = ReplayWindow(size)
        assert window.check(0) is not None
        assert window.commit(1) is None
        assert window.check(0) is not None

    def test_duplicates_of_newest_and_oldest_are_replays_and_older_ones_too_old(self, size: int) -> None:
        window = ReplayWindow(size)
        for number in range(1, size + 2):
            assert window.commit(number) is None
        assert window.check(size + 1) is DropReason.ESP_REPLAYED
        assert window.check(2) is DropReason.ESP_REPLAYED
        assert window.check(1) is DropReason.ESP_TOO_OLD

    def test_left_edge_is_accepted_and_the_number_beyond_refused(self, size: int) -> None:
        window = ReplayWindow(size)
        window.commit(2 * size)
        assert window.commit(size) is DropReason.ESP_TOO_OLD
        assert window.commit(size + 1) is None

    @pytest.mark.parametrize("jump", [-1, 0, 1, 1 << 31])
    def test_jumps_around_the_window_size_keep_what_is_still_inside(self, size: int, jump: int) -> None:
        window = ReplayWindow(size)
        window.commit(10)
        assert window.commit(10 + size + jump) is None
        expected = DropReason.ESP_REPLAYED if jump == -1 else DropReason.ESP_TOO_OLD
        assert window.check(10) is expected
        assert window.check(10 + size + jump) is DropReason.ESP_REPLAYED
        assert window.check(11 + size + jump) is None

    def test_check_changes_nothing(self, size: int) -> None:
        window = ReplayWindow(size)
        window.commit(5)
        window.check(1 << 30)
        assert window.top == 5
        assert window.commit(4) is None

    def test_commit_refuses_what_became_old_since_it_was_checked(self, size: int) -> None:
        window = ReplayWindow(size)
        assert window.check(1) is None
        window.commit(size + 1)
        assert window.commit(1) is DropReason.ESP_TOO_OLD

    def test_holes_are_lost_once_they_leave_the_window(self, size: int) -> None:
        window = ReplayWindow(size)
        window.commit(1)
        window.commit(4)                           # 2 and 3 are missing, but may still come
        assert window.lost == 0
        window.commit(3)
        window.commit(size + 4)
        assert window.lost == 1
        window.commit(3 * size + 4)
        assert window.lost == 1 + (size - 1) + size    # the window's other numbers, and those jumped over


def test_window_of_zero_refuses_nothing_but_number_zero() -> None:
    window = ReplayWindow(0)
    for number in (7, 7, 3, 1 << 31, 1):
        assert window.check(number) is None
        assert window.commit(number) is None
    assert window.check(0) is not None
    assert (window.top, window.lost) == (1 << 31, 0)


@pytest.mark.parametrize("size", [-1, 1, 32, 63, 8193, 1 << 20])
def test_window_sizes_out_of_bounds_are_refused(size: int) -> None:
    with pytest.raises(ValueError):
        ReplayWindow(size)


# RFC 4303 A2.2, case A: the window lies within one epoch.  Columns: low half, top, expected.
W = 64
CASE_A = [
    (100, 100, 100), (37, 100, 37),                # newest and oldest of the window
    (36, 100, EPOCH + 36),                         # left of it: the next epoch
    (EPOCH - 1, 100, EPOCH - 1),                   # far ahead
    (63, 63, 63), (0, 63, 0),                      # the smallest top of case A
    (EPOCH - 1, EPOCH - 1, EPOCH - 1), (0, EPOCH - 1, EPOCH), (62, EPOCH - 1, EPOCH + 62),
    (EPOCH - W, EPOCH - 1, EPOCH - W), (EPOCH - W - 1, EPOCH - 1, 2 * EPOCH - W - 1),
]
# Case B: the window spans two epochs.
CASE_B = [
    (0, EPOCH, EPOCH), (EPOCH - 1, EPOCH, EPOCH - 1), (EPOCH - 63, EPOCH, EPOCH - 63),
    (EPOCH - 64, EPOCH, 2 * EPOCH - 64),
    (62, EPOCH + 62, EPOCH + 62), (EPOCH - 1, EPOCH + 62, EPOCH - 1), (EPOCH - 2, EPOCH + 62, 2 * EPOCH - 2),
    (0, 7 * EPOCH + 5, 7 * EPOCH), (EPOCH - 58, 7 * EPOCH + 5, 7 * EPOCH - 58), (6, 7 * EPOCH + 5, 7 * EPOCH + 6),
]


@pytest.mark.parametrize(("low", "top", "expected"), CASE_A + CASE_B)
def test_high_half_is_inferred_as_appendix_a_says(low: int, top: int, expected: int) -> None:
    assert full_sequence(low, top=top, size=W) == expected


def test_number_before_the_first_epoch_is_refused() -> None:
    guess = full_sequence(EPOCH - 1, top=0, size=W)
    assert guess < 0
    assert ReplayWindow(W).check(guess) is DropReason.ESP_TOO_OLD


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [EPOCH - 8192, EPOCH - 64, EPOCH - 1, EPOCH, EPOCH + 63, 5 * EPOCH + 8192])
def test_everything_in_the_window_and_ahead_of_it_is_inferred_right(size: int, start: int) -> None:
    for sequence in (start - size + 1, start - 1, start, start + 1, start + (1 << 31)):
        assert full_sequence(sequence % EPOCH, top=start, size=size) == sequence

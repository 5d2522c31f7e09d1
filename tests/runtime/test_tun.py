"""The tunnel device's figures."""

from __future__ import annotations

from pathlib import Path

from ipsecd.runtime.tun import queue_overflow

LISTING = """\
Inter-|   Receive                                           |  Transmit
 face |bytes    packets errs drop fifo frame compressed multi|bytes    packets errs drop fifo colls carrier compr
    lo:    7000      70    0    0    0     0          0    0     7000      70    0    1    0     0       0          0
ipsec0: 1234567    1000    0    5    0     0          0    0  7654321    2000    0  109    0     0       0          0
"""


def test_queue_overflow_is_what_the_kernel_could_not_hand_us(tmp_path: Path) -> None:
    table = tmp_path / "dev"
    table.write_text(LISTING)
    assert queue_overflow("ipsec0", str(table)) == 109
    assert queue_overflow("ipsec1", str(table)) == 0


def test_queue_overflow_reads_this_kernels_list() -> None:
    assert queue_overflow("no-such-device") == 0
    assert queue_overflow("lo") >= 0

"""A head-end that is flooded with requests from invented addresses stays small and lets its branches in.

How soon, and how late the loop runs meanwhile, is for `scripts/bench --flood` to say: it depends on the machine.
"""

from __future__ import annotations

import pytest

from tests.lab.crowd import Crowd, forget_peak, memory
from tests.lab.rig import Rig
from tests.lab.spoof import PER_S, Spoofer
from tests.support.netns import LAB, eventually

pytestmark = LAB

GROWTH_KIB = 5 * 1024
FLOOD_S = 20.0
UP_S = 60.0                     # several attempts: the machine may be busy


@pytest.mark.parametrize("from_peer", [False, True], ids=["strangers", "spoofed-peer"])
def test_flood_of_ten_thousand_requests_a_second_keeps_no_branch_out(from_peer: bool) -> None:
    drown(5, from_peer=from_peer)


@pytest.mark.long
def test_flood_keeps_none_of_five_hundred_branches_behind_one_address_out() -> None:
    drown(500, from_peer=True)


def drown(count: int, *, from_peer: bool) -> None:
    """Bring up branches in a flood, half of which comes from their own address where `from_peer`."""
    with Rig() as rig:
        crowd = Crowd(rig, count)
        request, before = crowd.request(), memory(crowd.right).now
        forget_peak(crowd.right)
        with Spoofer(rig, request, seconds=FLOOD_S, also=rig.a.wan4 if from_peer else "") as flood:
            assert eventually(lambda: bool(crowd.right.status()["gateway"]["cookies"]), within_s=15)
            assert eventually(lambda: flood.sent > 2 * PER_S, within_s=15)
            grown = memory(crowd.right).peak - before
            crowd.call()
            assert eventually(crowd.all_up, within_s=UP_S)
        assert grown < GROWTH_KIB, f"{grown} KiB more"


@pytest.mark.long
def test_peer_that_stalls_before_ike_auth_holds_its_place_for_half_a_minute() -> None:
    with Rig() as rig:
        crowd = Crowd(rig, 1)
        sock = rig.wan.udp("198.51.100.254", 500)
        sock.sendto(crowd.request(), (rig.b.wan4, 500))
        sock.settimeout(10)
        assert sock.recv(65536)
        assert half_open(crowd) == 1
        assert eventually(lambda: half_open(crowd) == 0, within_s=35)


def half_open(crowd: Crowd) -> int:
    """Return how many half-open IKE SAs the head-end has as responder."""
    return int(crowd.right.status()["gateway"]["half_open"])

"""The queue of the tunnel device."""

from __future__ import annotations

import sys

from ipsecd.runtime.tun import QUEUE_PACKETS
from tests.support.netns import LAB, Lab

pytestmark = LAB


def test_queue_of_the_device_holds_what_comes_while_the_loop_is_busy() -> None:
    with Lab() as lab:
        node = lab.node("gw")
        node.run(sys.executable, "-c", "from ipsecd.runtime.tun import open_tun; open_tun('t0')")
        assert f"qlen {QUEUE_PACKETS}" in node.run("ip", "link", "show", "t0")

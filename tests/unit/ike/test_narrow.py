from __future__ import annotations

import time

import pytest

from ipsecd.ike.narrow import MAX_SELECTORS, is_within, narrow, narrow_pair
from ipsecd.selectors import OPAQUE_PORTS, TrafficSelector, from_prefix

TCP, UDP, ICMP = 6, 17, 1


def ts(*texts: str, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> tuple[TrafficSelector, ...]:
    return tuple(from_prefix(text, protocol, ports) for text in texts)


@pytest.mark.parametrize(("offered", "configured", "result"), [
    (ts("10.1.0.0/16"), ts("10.1.0.0/16"), ts("10.1.0.0/16")),                    # equal
    (ts("10.0.0.0/8"), ts("10.1.0.0/16"), ts("10.1.0.0/16")),                     # peer wider
    (ts("10.1.2.0/24"), ts("10.1.0.0/16"), ts("10.1.2.0/24")),                    # peer narrower
    (ts("10.1.0.0/16"), ts("10.2.0.0/16"), ()),                                   # disjoint: TS_UNACCEPTABLE
    (ts("0.0.0.0/0"), ts("10.1.0.0/16", "10.3.0.0/16"), ts("10.1.0.0/16", "10.3.0.0/16")),
    (ts("10.0.0.5-10.0.0.20"), ts("10.0.0.0/28", "10.0.0.16/28"), ts("10.0.0.5-10.0.0.15", "10.0.0.16-10.0.0.20")),
    (ts("::/0"), ts("10.1.0.0/16"), ()),
    (ts("0.0.0.0/0", "::/0"), ts("2001:db8::/32", "10.0.0.0/8"), ts("10.0.0.0/8", "2001:db8::/32")),
    ((), ts("10.0.0.0/8"), ()),
    (ts("10.0.0.0/8"), (), ()),
])
def test_narrowing_is_the_intersection(offered: tuple[TrafficSelector, ...], configured: tuple[TrafficSelector, ...],
                                       result: tuple[TrafficSelector, ...]) -> None:
    # TS-01
    assert narrow(offered, configured) == result


def test_selector_of_the_packet_stays_inside_the_result() -> None:
    # TS-02: the packet's selector, then the range; the range covers it and takes its place in front
    packet = ts("10.1.0.9", protocol=UDP, ports=(53, 53))
    offered = packet + ts("10.2.0.0/16", "10.1.0.0/16")
    assert narrow(offered, ts("10.0.0.0/8")) == ts("10.1.0.0/16", "10.2.0.0/16")
    assert narrow(offered, ts("10.1.0.0/24", "10.2.0.0/24")) == ts("10.1.0.0/24", "10.2.0.0/24")


def test_covered_and_repeated_selectors_are_left_out() -> None:
    offered = ts("10.1.0.0/16", "10.1.0.0/16", "10.0.0.0/8", "10.9.0.0/16")
    assert narrow(offered, ts("0.0.0.0/0", "10.0.0.0/8")) == ts("10.0.0.0/8")


@pytest.mark.parametrize(("offered", "configured", "result"), [
    (ts("10.0.0.1"), ts("10.0.0.1", protocol=TCP), ts("10.0.0.1", protocol=TCP)),
    (ts("10.0.0.1", protocol=TCP), ts("10.0.0.1", protocol=UDP), ()),
    (ts("10.0.0.1", protocol=TCP, ports=(0, 1023)), ts("10.0.0.1", protocol=TCP, ports=(22, 80)),
     ts("10.0.0.1", protocol=TCP, ports=(22, 80))),
    (ts("10.0.0.1", protocol=TCP, ports=(1, 21)), ts("10.0.0.1", protocol=TCP, ports=(22, 80)), ()),
    (ts("10.0.0.1", protocol=TCP, ports=OPAQUE_PORTS), ts("10.0.0.1", protocol=TCP, ports=(22, 80)), ()),
    (ts("10.0.0.1", protocol=TCP, ports=OPAQUE_PORTS), ts("10.0.0.1"),
     ts("10.0.0.1", protocol=TCP, ports=OPAQUE_PORTS)),
    (ts("10.0.0.1", protocol=ICMP, ports=(0x0300, 0x0BFF)), ts("10.0.0.1", protocol=ICMP, ports=(0x0800, 0x0800)),
     ts("10.0.0.1", protocol=ICMP, ports=(0x0800, 0x0800))),
])
def test_protocol_and_ports_are_narrowed(offered: tuple[TrafficSelector, ...], configured: tuple[TrafficSelector, ...],
                                         result: tuple[TrafficSelector, ...]) -> None:
    # TS-05
    assert narrow(offered, configured) == result
    assert is_within(result, offered) == bool(result)


def test_single_pair_holds_the_packet_and_one_family() -> None:
    # TS-03
    offered_local = ts("10.2.0.7", "10.0.0.0/8", "2001:db8:2::/48")
    offered_remote = ts("10.1.0.7", "10.0.0.0/8", "2001:db8:1::/48")
    local, remote = ts("2001:db8:2::/48", "10.3.0.0/16", "10.2.0.0/16"), ts("2001:db8:1::/48", "10.1.0.0/16")
    pair = narrow_pair(offered_local, offered_remote, local=local, remote=remote)
    assert pair == (*ts("10.2.0.0/16"), *ts("10.1.0.0/16"))
    assert narrow_pair(ts("10.2.0.0/16"), ts("2001:db8:1::/48"), local=local, remote=remote) is None


@pytest.mark.parametrize(("answered", "offered", "within"), [
    (ts("10.1.0.0/16"), ts("10.1.0.0/16"), True),
    (ts("10.1.2.0/24", "10.1.3.0/24"), ts("10.1.0.0/16"), True),
    (ts("10.0.0.0/8"), ts("10.1.0.0/16"), False),                                 # wider
    ((), ts("10.1.0.0/16"), False),                                               # empty
    (ts("10.1.0.0/16", "10.2.0.0/16"), ts("10.1.0.0/16"), False),                 # one foreign
    (ts("::/0"), ts("0.0.0.0/0"), False),
    (ts("10.0.0.0/8"), ts("10.128.0.0/9", "10.0.0.0/9"), True),                   # neighbours joined
    (ts("10.0.0.0/8"), ts("10.0.0.0/9", "10.129.0.0/16"), False),
    (ts("10.0.0.1"), ts("10.0.0.1", protocol=TCP), False),
    (ts("10.0.0.1", protocol=TCP, ports=(80, 90)), ts("10.0.0.1", protocol=TCP, ports=(80, 80)), False),
    (ts("255.255.255.255"), ts("0.0.0.0/0"), True),
])
def test_answer_must_lie_within_the_offer(answered: tuple[TrafficSelector, ...], offered: tuple[TrafficSelector, ...],
                                          *, within: bool) -> None:
    # TS-04
    assert is_within(answered, offered) is within


def test_narrowing_is_bounded() -> None:
    offered = tuple(TrafficSelector(4, i, 1000 + i, TCP, i, 1000 + i) for i in range(64))
    configured = tuple(TrafficSelector(4, i, 5000 - i, TCP, 0, 5000 - i) for i in range(500))
    started = time.process_time()
    assert len(narrow(offered, configured)) <= MAX_SELECTORS
    assert time.process_time() - started < 0.5


def test_wide_selector_takes_the_place_of_all_it_covers() -> None:
    offered = ts("10.1.0.0/16", "192.0.2.0/24", "10.2.0.0/16", "10.0.0.0/8")
    assert narrow(offered, ts("0.0.0.0/0")) == ts("10.0.0.0/8", "192.0.2.0/24")


def test_result_is_no_longer_than_a_payload_may_be() -> None:
    hosts = tuple(TrafficSelector(4, 2 * i, 2 * i) for i in range(MAX_SELECTORS + 5))
    assert narrow(ts("0.0.0.0/0"), hosts) == hosts[:MAX_SELECTORS]

"""Narrowing against a naive model: selectors as sets of packets in a small world, compared packet by packet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipsecd.ike.narrow import is_within, narrow
from ipsecd.selectors import ANY_PORTS, OPAQUE_PORTS, TrafficSelector

ADDRESSES, PORTS = range(8), range(4)
Packet = tuple[int, int, int, int | None]
WORLD: tuple[Packet, ...] = tuple((version, address, protocol, port) for version in (4, 6) for address in ADDRESSES
                                  for protocol in (6, 17) for port in (*PORTS, None))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    low, high = sorted((draw(st.sampled_from(ADDRESSES)), draw(st.sampled_from(ADDRESSES))))
    first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    ports = draw(st.sampled_from([(first, last), ANY_PORTS, OPAQUE_PORTS]))
    return TrafficSelector(draw(st.sampled_from([4, 6])), low, high, draw(st.sampled_from([0, 6, 17])), *ports)


lists = st.lists(selectors(), max_size=6).map(tuple)


@given(lists, lists)
def test_narrowed_selectors_take_exactly_the_packets_of_both(offered: tuple[TrafficSelector, ...],
                                                             configured: tuple[TrafficSelector, ...]) -> None:
    result = narrow(offered, configured)
    assert packets(result) == packets(offered) & packets(configured)
    assert not any(a.covers(b) for a in result for b in result if a is not b)
    assert is_within(result, offered) == is_within(result, configured) == bool(result)
    assert narrow(result, configured) == result


@given(lists.filter(bool), lists)
def test_packets_selector_comes_first_where_policy_allows_it(offered: tuple[TrafficSelector, ...],
                                                             configured: tuple[TrafficSelector, ...]) -> None:
    allowed = packets(offered[:1]) & packets(configured)
    assert not allowed or allowed & packets(narrow(offered, configured)[:1])


@given(lists, lists)
def test_answer_within_the_offer_takes_no_other_packet(answered: tuple[TrafficSelector, ...],
                                                       offered: tuple[TrafficSelector, ...]) -> None:
    if is_within(answered, offered):
        assert packets(answered) <= packets(offered)


def packets(chosen: tuple[TrafficSelector, ...]) -> set[Packet]:
    return {packet for packet in WORLD for one in chosen
            if one.matches(version=packet[0], address=packet[1], protocol=packet[2], port=packet[3])}

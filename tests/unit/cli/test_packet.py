"""The packet of `ipsecctl policy`, as people write it."""

from __future__ import annotations

import pytest

from ipsecd.cli.packet import parse_packet
from ipsecd.cli.units import counters, duration, size
from ipsecd.control.schema import PolicyQuery


@pytest.mark.parametrize("words", ["10.1.0.5 10.2.0.7 tcp 1234 445", "10.1.0.5:1234 10.2.0.7:445 tcp",
                                   "10.1.0.5:1234 10.2.0.7:445 6"])
def test_ports_are_read_in_either_form(words: str) -> None:
    assert parse_packet(words.split()) == PolicyQuery(source="10.1.0.5", destination="10.2.0.7", protocol=6,
                                                      source_port=1234, destination_port=445)


@pytest.mark.parametrize(("words", "expected"), [
    ("10.1.0.5 10.2.0.7", {"protocol": 0}),
    ("10.1.0.5 10.2.0.7 udp 53", {"protocol": 17, "destination_port": 53}),
    ("10.1.0.5 10.2.0.7:53 udp", {"protocol": 17, "destination_port": 53}),
    ("10.1.0.5 10.2.0.7 icmp 8", {"protocol": 1, "icmp": (8, 0)}),
    ("10.1.0.5 10.2.0.7 icmp", {"protocol": 1}),
])
def test_what_is_left_out_is_not_asked_about(words: str, expected: dict[str, object]) -> None:
    query = parse_packet(words.split())

    assert query.model_dump(exclude_defaults=True) | {"protocol": query.protocol} == {
        "source": "10.1.0.5", "destination": "10.2.0.7", **expected}


def test_ipv6_takes_ports_in_brackets() -> None:
    query = parse_packet(["[2001:db8::1]:500", "2001:db8::2", "udp"], inbound=True, interface="lan0")

    assert (query.source, query.source_port, query.destination) == ("2001:db8::1", 500, "2001:db8::2")
    assert (query.inbound, query.interface) == (True, "lan0")


@pytest.mark.parametrize(("words", "says"), [
    ("10.1.0.5", "a packet is"), ("x 10.2.0.7", "not an address"), ("10.1.0.5 2001:db8::1", "families"),
    ("10.1.0.5 10.2.0.7 tcp 99999 1", "not a number"), ("10.1.0.5 10.2.0.7 300", "at most 255"),
    ("10.1.0.5 10.2.0.7 tcp 1 2 3", "ports once"), ("10.1.0.5:1 10.2.0.7 tcp 1 2", "ports once"),
    ("10.1.0.5:1 10.2.0.7", "need a protocol"), ("10.1.0.5 10.2.0.7 gre 1 2", "need a protocol"),
    ("10.1.0.5 10.2.0.7 icmp 256", "at most 255"), ("[2001:db8::1]x 2001:db8::2", "expected"),
    ("10.1.0.5 10.2.0.7 tcp \u0661 \u0661", "not a number"),
])
def test_wrong_packet_is_a_sentence(words: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_packet(words.split())


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (-1, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3600, "1h00m"),
                                               (90_000, "1d01h")])
def test_duration_shows_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1_258_291, "1.20 MiB"),
                                             (10 * 2**20, "10.0 MiB"), (2**60, "1024 PiB")])
def test_size_shows_three_digits(count: int, text: str) -> None:
    assert size(count) == text


def test_counters_show_what_is_not_zero_largest_first() -> None:
    assert counters({"a": 0, "b": 1, "c": 5}) == "c 5, b 1"

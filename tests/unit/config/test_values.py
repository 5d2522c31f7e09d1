"""Scalars: what each form takes, and what it refuses."""

from __future__ import annotations

import pytest

from ipsecd.config import values


@pytest.mark.parametrize(("text", "seconds"), [
    ("4h", 14400), ("54m", 3240), ("10s", 10), ("165s", 165), ("165", 165), ("1.5s", 1.5), ("500ms", 0.5),
    ("1d", 86400)])
def test_duration_reads_units_and_plain_seconds(text: str, seconds: float) -> None:
    assert values.duration(0, 1e6)(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-1s", "+1", "1 h", "1h30m", "4H", "1e3", "nan", "inf", "012", "1_0",
                                  "22:22", "\u0661s", "9" * 5000])
def test_duration_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        values.duration(0, 1e6)(text)


@pytest.mark.parametrize(("text", "count"), [
    ("4GiB", 4 * 2**30), ("500 MB", 500 * 10**6), ("1.5KiB", 1536), ("7", 7), ("7B", 7), ("1kB", 1000)])
def test_size_reads_units(text: str, count: int) -> None:
    assert values.size(0, 2**62)(text) == count


@pytest.mark.parametrize("text", ["", "4XiB", "4Gib", "4iB", "-1", "010", "9" * 19 + "TiB"])
def test_size_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="a size such as"):
        values.size(0, 2**62)(text)


@pytest.mark.parametrize(("text", "bounds"), [
    ("445", (445, 445)), ("5060-5061", (5060, 5061)), ("any", (0, 65535)), ("opaque", (65535, 0)), ("0", (0, 0))])
def test_ports_read_numbers_ranges_any_and_opaque(text: str, bounds: tuple[int, int]) -> None:
    assert values.ports(text) == bounds


@pytest.mark.parametrize(("text", "number"), [("tcp", 6), ("UDP", 17), ("icmpv6", 58), ("47", 47), ("any", 0)])
def test_protocol_reads_names_and_numbers(text: str, number: int) -> None:
    assert values.protocol(text) == number


@pytest.mark.parametrize("text", ["../etc", "", "a/b", "all", "default", "lo", ".hidden", "x" * 16, "a b", "eth0\n"])
def test_interface_refuses_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        values.interface(text)


@pytest.mark.parametrize(("text", "found"), [("127.0.0.1:9469", ("127.0.0.1", 9469)), ("[::1]:80", ("::1", 80))])
def test_listen_address_reads_address_and_port(text: str, found: tuple[str, int]) -> None:
    assert values.listen_address(text) == found


@pytest.mark.parametrize("text", ["9469", ":9469", "localhost:9469", "::1:9469", "[::1]", "1.2.3.4:0", "1.2.3.4:70000"])
def test_listen_address_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError):
        values.listen_address(text)


@pytest.mark.parametrize(("seconds", "text"), [(14400, "4h"), (3240, "54m"), (10, "10s"), (0.1, "0.1s"), (90, "90s")])
def test_time_is_shown_as_it_is_written(seconds: float, text: str) -> None:
    assert values.show_s(seconds) == text

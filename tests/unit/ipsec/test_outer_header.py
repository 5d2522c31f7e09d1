"""What AH's ICV covers of the headers ahead of it, option by option (RFC 4302 appendix A)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.outer_header import Outer, outer_header
from tests.support import esp_packets as p

AH_BYTES = bytes(28)


@pytest.mark.parametrize("kind", [130, 133, 134, 148, 149])
def test_ipv4_option_that_no_router_changes_is_covered(kind: int) -> None:
    option = bytes([kind, 4, 0xAB, 0xCD])
    assert covered(v4(options=option))[20:] == option


@pytest.mark.parametrize("kind", [7, 10, 11, 12, 68, 82, 131, 136, 137, 145, 147, 205, 30, 94])
def test_ipv4_option_that_changes_or_is_unknown_counts_as_zero_with_type_and_length(kind: int) -> None:
    after = bytes([148, 4, 0, 0])
    assert covered(v4(options=bytes([kind, 4, 0xAB, 0xCD]) + after))[20:] == bytes(4) + after


def test_ipv4_no_operation_and_what_is_behind_the_end_of_options_are_covered() -> None:
    options = bytes([1, 7, 2, 0, 131, 9, 9, 9])
    assert covered(v4(options=options))[20:] == bytes([1, 0, 0, 0, 131, 9, 9, 9])


def test_ipv4_header_counts_without_tos_flags_ttl_and_checksum() -> None:
    packet = v4(tos=0xFF)
    zeroed = bytearray(packet[:20])
    for at in (1, 6, 7, 8, 10, 11):
        zeroed[at] = 0
    assert covered(packet) == bytes(zeroed)


@pytest.mark.parametrize("options", [bytes([131, 0, 0, 0]), bytes([131, 1, 0, 0]), bytes([131, 5, 0, 0]),
                                     bytes([1, 1, 1, 131])])
def test_ipv4_option_of_a_wrong_length_is_malformed(options: bytes) -> None:
    assert outer_header(v4(options=options)) is DropReason.AH_MALFORMED


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x2001, 0x1FFF])
def test_ipv4_fragment_is_refused(fragment: int) -> None:
    assert outer_header(v4(fragment=fragment)) is DropReason.AH_FRAGMENT


@pytest.mark.parametrize(("packet", "reason"), [
    (b"", DropReason.AH_MALFORMED), (b"\x45", DropReason.AH_SHORT), (b"\x60" * 39, DropReason.AH_SHORT),
    (b"\x50" * 60, DropReason.AH_MALFORMED), (p.ipv4(), DropReason.AH_MALFORMED), (p.ipv6(), DropReason.AH_MALFORMED),
    (p.ipv4(protocol=51, ihl=4), DropReason.AH_MALFORMED), (p.ipv4(protocol=51, total=19), DropReason.AH_MALFORMED),
    (p.ipv4(protocol=51, total=999), DropReason.AH_MALFORMED), (p.ipv6(following=51, length=99),
                                                               DropReason.AH_MALFORMED)])
def test_packet_whose_header_does_not_add_up_is_refused(packet: bytes, reason: DropReason) -> None:
    assert outer_header(packet) is reason


def test_ipv6_header_counts_without_traffic_class_flow_label_and_hop_limit() -> None:
    packet = p.ipv6(following=51, payload=AH_BYTES, tos=0xFF)
    packet = packet[:2] + b"\x12\x34" + packet[4:]
    assert covered(packet) == b"\x60\0\0\0" + packet[4:7] + b"\0" + packet[8:40]


@pytest.mark.parametrize("following", [0, 60])
def test_ipv6_option_says_itself_whether_its_data_count(following: int) -> None:
    body = bytes([0x05, 2, 0xAB, 0xCD, 0x3E, 4, 1, 2, 3, 4, 0, 1, 0, 0])
    packet = v6((following, body))
    assert covered(packet)[40:] == bytes([51, 1, 0x05, 2, 0xAB, 0xCD, 0x3E, 4, 0, 0, 0, 0, 0, 1, 0, 0])


def test_ipv6_routing_header_counts_as_it_arrived() -> None:
    body = bytes([4, 0, 0, 0, 0, 0]) + ip_address("2001:db8::1").packed
    packet = v6((0, bytes([1, 4, 0, 0, 0, 0])), (43, body), (60, bytes([1, 4, 0, 0, 0, 0])))
    assert covered(packet)[40:] == packet[40:-len(AH_BYTES)]


@pytest.mark.parametrize(("chain", "reason"), [
    (((44, bytes(6)),), DropReason.AH_FRAGMENT),
    (((60, bytes([1, 4, 0, 0, 0, 0])), (0, bytes([1, 4, 0, 0, 0, 0]))), DropReason.AH_MALFORMED),
    (((135, bytes(6)),), DropReason.AH_MALFORMED),
    (((60, bytes([5, 5, 0, 0, 0, 0])),), DropReason.AH_MALFORMED),
    (((60, bytes([0, 0, 0, 0, 0, 5])),), DropReason.AH_MALFORMED),
    (((60, bytes([1, 4, 0, 0, 0, 0])),) * 9, DropReason.AH_MALFORMED),
    (((60, b"\1\xfc" + bytes(252) + b"\1\6" + bytes(6)),), DropReason.AH_MALFORMED),
])
def test_ipv6_chain_that_no_honest_sender_makes_is_refused(chain: tuple[tuple[int, bytes], ...],
                                                           reason: DropReason) -> None:
    assert outer_header(v6(*chain)) is reason


def test_ipv6_extension_beyond_the_packet_is_malformed() -> None:
    packet = p.ipv6(following=60, payload=bytes([51, 9]) + bytes(14))
    assert outer_header(packet) is DropReason.AH_MALFORMED
    assert outer_header(p.ipv6(following=60, payload=b"\0" * 7)) is DropReason.AH_MALFORMED


def v4(*, options: bytes = b"", tos: int = 0, fragment: int = 0x4000) -> bytes:
    return p.ipv4(protocol=51, payload=AH_BYTES, options=options, tos=tos, fragment=fragment)


def v6(*chain: tuple[int, bytes]) -> bytes:
    """Extension headers (kind, all behind the length) ahead of AH."""
    kinds = [kind for kind, _ in chain] + [51]
    headers = b"".join(bytes([after, (len(body) + 2) // 8 - 1]) + body
                       for (_, body), after in zip(chain, kinds[1:], strict=True))
    return p.ipv6(following=kinds[0], payload=headers + AH_BYTES)


def covered(packet: bytes) -> bytes:
    outer = outer_header(packet)
    assert isinstance(outer, Outer)
    assert outer.end == len(packet)
    assert outer.at == len(packet) - len(AH_BYTES)
    return outer.covered

"""Inbound packets: what is checked after the ICV (RFC 4301 5.2, RFC 4303 3.4), and what remains when a check fails."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.ecn import DROP, decapsulated
from ipsecd.ipsec.esp import TRAILERS
from ipsecd.ipsec.reports import FirstInbound, HardLifetime, PeerAddress, SoftLifetime, UnknownSpi
from ipsecd.ipsec.sad import Pair
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import Endpoint, Path, SaPair, Volume
from tests.support import esp_packets as p

MOVED = Path(p.A_OUTSIDE, Endpoint("198.51.100.9", 40000))


class Ends:
    """Our data plane, and the peer's sealing side in our hands."""

    def __init__(self, ours: SaPair | None = None, entries: list[SpdEntry] | None = None) -> None:
        ours = ours or p.pair()
        self.plane = Dataplane(p.SeededRng())
        self.plane.add_device("ipsec0", None)
        self.plane.replace_policy(entries or [], {})
        self.plane.install_sa(ours)
        self.pair = self.plane.sad.by_spi[ours.spi_in]
        peer = SaPair(ours.child, 0, ours.suite, ours.outbound, ours.inbound, ours.ts_remote, ours.ts_local, ours.path,
                      64, False, Volume())
        self.sealer = Pair(peer, p.SeededRng(2), 0).sealer
        self.sequence = 0

    def seal(self, inner: bytes, next_header: int | None = None, *, sequence: int | None = None,
             trailer: bytes | None = None) -> bytes:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        number = (4 if inner[0] >> 4 == 4 else 41) if next_header is None else next_header
        rows = tuple(bytes(range(1, n + 1)) + bytes((n, number)) if trailer is None else trailer for n in range(16))
        return self.sealer.seal(inner, rows, sequence)

    def open(self, datagram: bytes, *, path: Path | None = None, tos: int = 0) -> bytes | DropReason:
        return self.plane.open(self.pair, datagram, 0, len(datagram), path or self.pair.path, tos, 1.0)

    def carry(self, inner: bytes, next_header: int | None = None, *, tos: int = 0) -> bytes | DropReason:
        return self.open(self.seal(inner, next_header), tos=tos)


IN4 = p.ipv4("10.2.0.1", "10.1.0.1")
IN6 = p.ipv6("2001:db8:2::1", "2001:db8:1::1")


@pytest.mark.parametrize("inner", [
    p.ipv4("10.3.0.1", "10.1.0.1"), p.ipv4("10.2.0.1", "10.9.0.1"), p.ipv4("10.1.0.1", "10.2.0.1"),
    p.ipv6("2001:db8:3::1", "2001:db8:1::1")])
def test_inner_addresses_outside_the_selectors_are_refused(inner: bytes) -> None:       # IB-01
    assert Ends().carry(inner) is DropReason.INNER_SELECTOR


def test_packet_of_one_child_is_refused_on_the_sa_of_another() -> None:                 # IB-02
    ends = Ends(p.pair(local=p.selectors(("10.1.5.0/24",)), remote=p.selectors(("10.2.5.0/24",))))
    assert ends.carry(p.ipv4("10.2.5.1", "10.1.5.1")) == p.ipv4("10.2.5.1", "10.1.5.1")
    assert ends.carry(IN4) is DropReason.INNER_SELECTOR


@pytest.mark.parametrize("source", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"])
def test_martian_ipv4_sources_are_refused_whatever_was_negotiated(source: str) -> None:     # IB-03
    ends = Ends(p.pair(remote=p.selectors(("0.0.0.0/0",))))
    assert ends.carry(p.ipv4(source, "10.1.0.1")) is DropReason.INNER_MARTIAN


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "::ffff:10.2.0.1"])
def test_martian_ipv6_sources_are_refused_whatever_was_negotiated(source: str) -> None:     # IB-03
    ends = Ends(p.pair(remote=p.selectors(("::/0",))))
    assert ends.carry(p.ipv6(source, "2001:db8:1::1")) is DropReason.INNER_MARTIAN


def test_our_own_address_is_no_inner_source() -> None:                                  # IB-03
    ends = Ends(p.pair(remote=p.selectors(("0.0.0.0/0",))))
    ends.plane.set_own_addresses(frozenset({(4, 0xC0000201)}))
    assert ends.carry(p.ipv4("192.0.2.1", "10.1.0.1")) is DropReason.INNER_MARTIAN


@pytest.mark.parametrize(("inner", "next_header"), [
    (IN4, 41), (IN6, 4), (p.ipv4("10.2.0.1", "10.1.0.1", ihl=4), 4), (p.ipv4("10.2.0.1", "10.1.0.1", ihl=15), 4),
    (p.ipv4("10.2.0.1", "10.1.0.1", total=500), 4), (p.ipv4("10.2.0.1", "10.1.0.1", total=0), 4),
    (p.ipv4("10.2.0.1", "10.1.0.1", total=19), 4), (p.ipv6("2001:db8:2::1", "2001:db8:1::1", length=500), 41),
    (p.ipv6("2001:db8:2::1", "2001:db8:1::1", length=0), 41), (IN4[:19], 4), (IN6[:39], 41), (b"", 4), (b"", 41)])
def test_inner_lengths_and_versions_that_contradict_are_refused(inner: bytes, next_header: int) -> None:    # IB-05
    assert Ends().carry(inner, next_header) is DropReason.INNER_MALFORMED


@pytest.mark.parametrize("inner", [IN4, IN6])
def test_bytes_behind_the_inner_packet_are_traffic_flow_padding(inner: bytes) -> None:  # IB-06, RFC 4303 2.7
    assert Ends().carry(inner + bytes(700)) == inner


def test_dummy_packet_is_counted_and_moves_the_window() -> None:                        # IB-07
    ends = Ends()
    assert ends.carry(bytes(40), 59) is DropReason.ESP_DUMMY
    assert (ends.pair.window.top, ends.pair.inward.packets) == (1, 1)


@pytest.mark.parametrize("next_header", [0, 6, 17, 50, 58, 255])
def test_other_next_headers_are_refused_on_a_tunnel(next_header: int) -> None:          # IB-08
    assert Ends().carry(IN4, next_header) is DropReason.ESP_NEXT_HEADER


@pytest.mark.parametrize("trailer", [b"\xff\x04", b"\x01\x03\x02\x04", b"\0\0\2\4", b"\2\1\2\4"])
def test_wrong_padding_is_refused_after_the_icv(trailer: bytes) -> None:                # IB-09
    ends = Ends()
    assert ends.open(ends.seal(IN4, trailer=trailer)) is DropReason.ESP_BAD_PADDING
    assert ends.pair.window.top == 1


@pytest.mark.parametrize("suite", [p.suite(), p.suite("chacha20poly1305"), p.suite("aes256", "sha512")], ids=str)
def test_every_truncation_is_a_drop(suite: object) -> None:                             # IB-10
    ends = Ends(p.pair(suite))  # type: ignore[arg-type]
    datagram = ends.seal(IN4)
    for length in range(4, len(datagram)):
        assert ends.open(datagram[:length]) in (DropReason.ESP_SHORT, DropReason.ESP_BAD_ICV)
    assert ends.pair.window.top == 0
    assert ends.open(datagram) == IN4


@pytest.mark.parametrize("suite", [p.suite(), p.suite(esn=True), p.suite("aes128", "sha256", esn=True)], ids=str)
def test_every_changed_byte_fails_and_changes_nothing(suite: object) -> None:           # IB-13
    ends = Ends(p.pair(suite))  # type: ignore[arg-type]
    datagram = ends.seal(IN4)
    for at in range(4, len(datagram)):
        forged = datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1:]
        assert ends.open(forged) is DropReason.ESP_BAD_ICV or at < 8
    assert (ends.pair.window.top, ends.pair.inward.packets, ends.plane.take_reports()) == (0, 0, [])
    assert ends.open(datagram) == IN4


def test_forged_number_far_ahead_does_not_move_the_window() -> None:                    # RP-06
    ends = Ends()
    datagram = ends.seal(IN4)
    assert ends.open(datagram[:4] + b"\x7f\0\0\0" + datagram[8:]) is DropReason.ESP_BAD_ICV
    assert ends.open(datagram) == IN4


def test_second_packet_of_a_number_is_a_replay_and_is_not_decrypted() -> None:          # RP-02, RP-07
    ends = Ends()
    first, second = ends.seal(IN4, sequence=5), ends.seal(IN6, sequence=5)
    assert ends.open(first) == IN4
    assert ends.open(first) is DropReason.ESP_REPLAYED
    assert ends.open(second) is DropReason.ESP_REPLAYED
    assert ends.pair.drops == {DropReason.ESP_REPLAYED: 2}


def test_late_packet_of_a_batch_is_judged_by_the_window_that_the_batch_moved() -> None:  # RP-05
    ends = Ends()
    assert ends.open(ends.seal(IN4, sequence=200)) == IN4
    assert ends.open(ends.seal(IN4, sequence=200 - 63)) == IN4
    assert ends.open(ends.seal(IN4, sequence=200 - 64)) is DropReason.ESP_TOO_OLD


def test_window_switched_off_takes_duplicates_and_follows_nobody() -> None:             # RP-08
    ends = Ends(p.pair(window=0))
    datagram = ends.seal(IN4)
    assert ends.open(datagram, path=MOVED) == ends.open(datagram, path=MOVED) == IN4
    assert ends.pair.path != MOVED


@pytest.mark.parametrize("esn_suite", [p.suite(esn=True), p.suite("aes256", "sha256", esn=True)], ids=str)
def test_extended_numbers_roll_over_and_survive_a_long_loss(esn_suite: object) -> None:  # RP-09, RP-10
    ends = Ends(p.pair(esn_suite))  # type: ignore[arg-type]
    for sequence in (1, (1 << 31), (1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 32) - 2, (1 << 32) + (1 << 31)):
        assert ends.open(ends.seal(IN4, sequence=sequence)) == IN4
    assert ends.open(ends.seal(IN4, sequence=7)) in (DropReason.ESP_BAD_ICV, DropReason.ESP_TOO_OLD)


def test_fresh_packet_from_elsewhere_moves_the_peer_and_is_reported_once() -> None:
    ends = Ends()
    ends.carry(IN4)
    ends.open(ends.seal(IN4), path=MOVED)
    ends.open(ends.seal(IN4), path=MOVED)
    assert ends.pair.path == MOVED
    assert ends.plane.take_reports() == [FirstInbound(0x1000), PeerAddress(0x1000, MOVED)]


def test_old_packet_from_elsewhere_moves_nothing() -> None:
    ends = Ends()
    early = ends.seal(IN4)
    ends.carry(IN4)
    assert ends.open(early, path=MOVED) == IN4
    assert ends.pair.path.remote == p.B_OUTSIDE


def test_peer_without_follow_is_heard_but_not_followed() -> None:
    ends = Ends(p.pair(follow=False))
    assert ends.open(ends.seal(IN4), path=MOVED) == IN4
    assert ends.pair.path.remote == p.B_OUTSIDE


def test_packet_to_another_address_of_ours_does_not_move_the_peer() -> None:
    ends = Ends()
    ends.open(ends.seal(IN4), path=Path(Endpoint("192.0.2.99", 4500), p.B_OUTSIDE))
    assert ends.pair.path == Path(p.A_OUTSIDE, p.B_OUTSIDE)


@pytest.mark.parametrize("inner_field", [0, 1, 2, 3])
@pytest.mark.parametrize("outer_field", [0, 1, 2, 3])
@pytest.mark.parametrize("family", [4, 6])
def test_congestion_fields_join_as_rfc_6040_says(inner_field: int, outer_field: int, family: int) -> None:   # EC-02, 03
    def packet(field: int) -> bytes:
        tos = 0xB8 | field
        return (p.ipv4("10.2.0.1", "10.1.0.1", tos=tos) if family == 4
                else p.ipv6("2001:db8:2::1", "2001:db8:1::1", tos=tos))
    result = Ends().carry(packet(inner_field), tos=0x28 | outer_field)
    joined = decapsulated(inner_field, outer_field)
    assert result == (DropReason.ECN_FORBIDDEN if joined == DROP else packet(joined))


def test_congestion_table_is_that_of_rfc_6040_figure_4() -> None:                       # EC-02
    not_ect, ect1, ect0, ce = range(4)
    table = {not_ect: [not_ect, not_ect, not_ect, DROP], ect0: [ect0, ect1, ect0, ce],
             ect1: [ect1, ect1, ect1, ce], ce: [ce, ce, ce, ce]}
    assert {inner: [decapsulated(inner, outer) for outer in range(4)] for inner in range(4)} == table


def test_unexpected_congestion_fields_are_counted() -> None:
    ends = Ends()
    ends.carry(IN4, tos=1)
    assert ends.plane.unexpected_ecn == 1


def test_fragments_pass_on_an_sa_for_any_port() -> None:                                # FG-01
    ends = Ends()
    for fragment in (0x2000, 0x2010, 0x0020):
        packet = p.ipv4("10.2.0.1", "10.1.0.1", fragment=fragment)
        assert ends.carry(packet) == packet


def test_later_fragment_is_refused_on_an_sa_with_ports() -> None:                       # FG-02
    ends = Ends(p.pair(local=p.selectors(("10.1.0.0/16",), 17, (5060, 5061))))
    assert ends.carry(p.ipv4("10.2.0.1", "10.1.0.1")) == p.ipv4("10.2.0.1", "10.1.0.1")
    assert ends.carry(p.ipv4("10.2.0.1", "10.1.0.1", fragment=0x2010)) is DropReason.INNER_FRAGMENT


def test_opaque_sa_takes_later_fragments_only() -> None:                                # FG-04
    ends = Ends(p.pair(local=p.selectors(("10.1.0.0/16",), 17, (65535, 0))))
    later = p.ipv4("10.2.0.1", "10.1.0.1", fragment=0x0010)
    assert ends.carry(later) == later
    assert ends.carry(p.ipv4("10.2.0.1", "10.1.0.1")) is DropReason.INNER_SELECTOR
    assert ends.carry(p.ipv4("10.2.0.1", "10.1.0.1", fragment=0x2000)) is DropReason.INNER_SELECTOR


def test_fragments_made_to_hide_their_ports_are_refused_everywhere() -> None:           # FG-04, FG-07
    ends = Ends()
    overlapping = p.ipv4("10.2.0.1", "10.1.0.1", protocol=6, fragment=1)
    tiny = p.ipv4("10.2.0.1", "10.1.0.1", fragment=0x2000, payload=b"\0\0\0")
    assert ends.carry(overlapping) is ends.carry(tiny) is DropReason.INNER_FRAGMENT


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_icmp_error_about_a_packet_of_ours_passes_from_any_router(kind: int) -> None:   # IC-05
    error = p.ipv4("172.16.0.1", "10.1.0.1", protocol=1, payload=p.icmp(kind, 4, p.ipv4()[:28]))
    assert Ends().carry(error) == error


@pytest.mark.parametrize("error", [
    p.ipv4("172.16.0.1", "10.1.0.1", 1, p.icmp(3, 4, p.ipv4("10.9.0.1")[:28])),             # about somebody else's
    p.ipv4("172.16.0.1", "10.1.0.9", 1, p.icmp(3, 4, p.ipv4()[:28])),                       # to somebody else
    p.ipv4("172.16.0.1", "10.1.0.1", 1, p.icmp(8, 0, p.ipv4()[:28])),                       # no error at all
    p.ipv4("172.16.0.1", "10.1.0.1", 1, p.icmp(3, 4, p.ipv4()[:12])),                       # too short to tell
])
def test_other_icmp_from_outside_the_selectors_is_refused(error: bytes) -> None:        # IC-05
    assert Ends().carry(error) is DropReason.INNER_SELECTOR


def test_icmpv6_error_about_a_packet_of_ours_passes() -> None:
    error = p.ipv6("2001:db8:ffff::1", "2001:db8:1::1", 58, p.icmp(2, 0, p.ipv6()))
    assert Ends().carry(error) == error


def test_redirect_leaves_no_tunnel() -> None:                                           # IC-08
    ends = Ends()
    assert ends.carry(p.ipv4("10.2.0.1", "10.1.0.1", 1, p.icmp(5, 1, p.ipv4()))) is DropReason.INNER_REDIRECT
    redirect6 = p.ipv6("2001:db8:2::1", "2001:db8:1::1", 58, p.icmp(137, 0, p.ipv6()))
    assert ends.carry(redirect6) is DropReason.INNER_REDIRECT


def test_discard_entry_ahead_of_the_child_counts_inbound_too() -> None:
    no_sip = SpdEntry("no-sip", Action.DISCARD, p.selectors(("0.0.0.0/0",), 17), p.selectors(("0.0.0.0/0",), 17,
                                                                                         (1234, 1234)))
    assert Ends(entries=[no_sip]).carry(IN4) is DropReason.SPD_DISCARD


def test_hard_limit_ends_the_pair_after_the_packet_that_reached_it() -> None:
    ends = Ends(p.pair(volume=Volume(soft_bytes=len(IN4) + 1, hard_packets=3)))
    assert [ends.carry(IN4) for _ in range(4)] == [IN4, IN4, IN4, DropReason.ESP_EXPIRED]
    told = [report for report in ends.plane.take_reports() if isinstance(report, (SoftLifetime, HardLifetime))]
    assert [type(report) for report in told] == [SoftLifetime, HardLifetime]


def test_unknown_spi_is_always_counted_and_seldom_reported() -> None:                   # IB-11
    plane = Ends().plane
    for n in range(300):
        plane.unknown_spi(MOVED, 5, 100.0 + n / 1000)
    assert plane.drops == {DropReason.ESP_UNKNOWN_SPI: 300}
    assert plane.take_reports() == [UnknownSpi(MOVED, 5)] * 10
    plane.unknown_spi(MOVED, 5, 102.0)
    assert len(plane.take_reports()) == 1


def test_trailer_table_counts_up() -> None:
    assert TRAILERS[4][0] == b"\0\4"
    assert TRAILERS[41][3] == b"\1\2\3\3\x29"

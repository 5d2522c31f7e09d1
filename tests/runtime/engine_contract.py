"""What every engine must do (ipsecd.engine.contract): subclass EngineContract and say how yours is built."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.contract import Engine, EngineListener
from ipsecd.ipsec.esp import TRAILERS, make_seal
from ipsecd.ipsec.tfc import MAX_DUMMY_BYTES
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import Endpoint, Path, Tfc, TransportEnds, Volume
from tests.runtime.engine_rig import A_ADDRESS, A_SPI, B_SPI, MOVED_ADDRESS, Gateway, Rig
from tests.support import esp_packets as p


class EngineContract(ABC):
    """The tests; a subclass whose name begins with Test runs them.

    `header` stands ahead of every packet on the TUN: the empty virtio header where the engine uses offload.
    """

    header = b""

    @abstractmethod
    def build(self, loop: asyncio.AbstractEventLoop, listener: EngineListener, tun: tuple[str, int],
              sockets: dict[str, socket.socket]) -> Engine:
        """Return an engine that reads."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = Rig(self.build, self.header)
        yield rig
        rig.close()

    def test_packets_of_both_families_pass_both_ways(self, rig: Rig) -> None:
        rig.connect()
        there, back = [p.ipv4(), p.ipv6()], [p.ipv4("10.2.0.1", "10.1.0.1"), p.ipv6("2001:db8:2::1", "2001:db8:1::1")]
        rig.a.send(*there)
        rig.b.send(*back)
        assert rig.carried(rig.b, 2) == there
        assert rig.carried(rig.a, 2) == back

    def test_burst_of_mixed_sizes_arrives_whole_and_in_order(self, rig: Rig) -> None:
        rig.connect(window=1024)
        sizes = [1300] * 70 + [50] * 130 + [1300, 40, 40, 900] * 25
        burst = [p.ipv4(payload=p.udp(data=n.to_bytes(4, "big") + bytes(size))) for n, size in enumerate(sizes)]
        rig.a.send(*burst)
        assert rig.carried(rig.b, len(burst)) == burst
        assert rig.a.engine.stats().drops == rig.b.engine.stats().drops == {}

    def test_large_packets_are_reported_once_in_a_while_and_small_ones_never(self, rig: Rig) -> None:
        rig.connect()
        rig.a.send(*[p.ipv4(payload=p.udp(data=bytes(900)))] * 5)
        rig.carried(rig.b, 5)
        assert rig.a.recorder.of("large") == []
        rig.a.send(*[p.ipv4(payload=p.udp(data=bytes(1300)))] * 20)
        rig.carried(rig.b, 20)
        rig.until(lambda: rig.a.recorder.of("large"))
        assert rig.a.recorder.of("large") == [("large", A_SPI)]
        assert rig.b.recorder.of("large") == []

    def test_outer_congestion_field_reaches_the_inner_packet(self, rig: Rig) -> None:
        rig.connect()
        marked = [p.ipv4(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)] + [p.ipv6(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)]
        rig.a.send(*marked)
        assert rig.carried(rig.b, len(marked)) == marked

    def test_counters_are_read_and_returned_by_removal(self, rig: Rig) -> None:
        rig.connect()
        rig.a.send(p.ipv4())
        rig.carried(rig.b, 1)
        received = rig.b.engine.stats().pairs[B_SPI]
        assert (received.packets_in, received.bytes_in) == (1, len(p.ipv4()))
        assert rig.b.engine.last_inbound(B_SPI) == received.last_in is not None
        assert rig.b.engine.remove_sa(B_SPI) == (received, {})
        assert rig.b.engine.remove_sa(B_SPI) is None
        assert rig.b.engine.last_inbound(B_SPI) is None

    def test_ike_passes_behind_the_marker_and_never_reaches_the_tun(self, rig: Rig) -> None:
        rig.a.engine.send_ike(rig.path, b"an IKE message")
        rig.until(lambda: rig.b.recorder.told)
        assert rig.b.recorder.told == [("ike", Path(rig.path.remote, rig.path.local), b"an IKE message")]
        assert rig.b.received() == []

    def test_keepalives_and_runts_are_counted_and_cause_nothing(self, rig: Rig) -> None:
        rig.a.engine.send_keepalive(rig.path)
        with stranger(rig.b) as sock:
            for datagram in (b"", b"\x01", b"\0\0\0"):
                sock.send(datagram)
            rig.until(lambda: sum(rig.b.engine.stats().drops.values()) == 4)
        assert rig.b.engine.stats().drops == {DropReason.UDP_KEEPALIVE: 1, DropReason.UDP_EMPTY: 1,
                                              DropReason.UDP_TRUNCATED: 2}
        assert rig.b.recorder.told == []

    def test_unknown_spi_is_counted_always_and_told_seldom(self, rig: Rig) -> None:
        with stranger(rig.b) as sock:
            for n in range(100):
                sock.send((0x7777).to_bytes(4, "big") + bytes(40 + n))
            rig.until(lambda: rig.drops(rig.b, DropReason.ESP_UNKNOWN_SPI) == 100)
        told = rig.b.recorder.of("unknown")
        assert 1 <= len(told) <= 20
        assert told[0][2] == 0x7777

    def test_arbitrary_bytes_end_as_drops_and_leave_the_sa_working(self, rig: Rig) -> None:
        rig.connect()
        chance = p.SeededRng(7)
        with stranger(rig.b) as sock:
            for n in range(200):
                sock.send(B_SPI.to_bytes(4, "big") + chance.random_bytes(n))
            rig.until(lambda: sum(rig.b.engine.stats().drops.values()) == 200)
        assert sum(rig.b.engine.stats().pair_drops[B_SPI].values()) == 200
        for n in range(100):
            rig.a.send(chance.random_bytes(1 + n))
        rig.a.send(p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]

    def test_packet_without_sa_is_held_asks_once_and_leaves_in_order(self, rig: Rig) -> None:
        waiting = [p.ipv4(payload=p.udp(data=bytes([n]))) for n in range(5)]
        rig.a.send(*waiting)
        rig.until(lambda: rig.a.engine.stats().held_packets == {p.CHILD: 5})
        assert rig.a.recorder.told == [("acquire", p.CHILD, waiting[0][:128])]
        rig.connect()
        assert rig.carried(rig.b, 5) == waiting
        assert rig.a.engine.stats().held_packets == {}

    def test_abandoned_packets_are_counted(self, rig: Rig) -> None:
        rig.a.send(p.ipv4())
        rig.until(lambda: rig.a.engine.stats().held_packets)
        rig.a.engine.abandon_held(p.CHILD)
        assert rig.drops(rig.a, DropReason.HELD_ABANDONED) == 1

    def test_inbound_is_accepted_before_outbound_is_used(self, rig: Rig) -> None:
        rig.install()
        rig.a.engine.use_outbound(p.CHILD, A_SPI)
        rig.a.send(p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]
        assert rig.b.recorder.told == [("first", B_SPI)]
        rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
        rig.until(lambda: rig.b.engine.stats().held_packets == {p.CHILD: 1})

    def test_switch_to_a_new_pair_keeps_the_old_one_for_inbound(self, rig: Rig) -> None:
        rig.connect()
        rig.install(spi_in=0x1001, spi_out=0x2001)
        rig.a.engine.use_outbound(p.CHILD, 0x1001)
        rig.a.send(p.ipv4())
        rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
        rig.carried(rig.b, 1)
        rig.carried(rig.a, 1)
        assert rig.b.engine.stats().pairs[0x2001].packets_in == 1
        assert rig.a.engine.stats().pairs[A_SPI].packets_in == 1

    def test_engine_follows_and_reports_a_peer_that_moved(self, rig: Rig) -> None:
        rig.connect()
        with stranger(rig.b) as moved:             # a NAT that gave the peer another mapping
            rig.a.send(p.ipv4())
            rig.carried(rig.b, 1)
            relay(rig, moved)
            rig.until(lambda: rig.b.recorder.of("peer_address"))
            told = rig.b.recorder.of("peer_address")
            assert told == [("peer_address", B_SPI, Path(rig.b.endpoint, Endpoint(*moved.getsockname())))]
            rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
            rig.until(lambda: readable(moved))

    def test_peer_that_must_not_be_followed_is_not(self, rig: Rig) -> None:
        rig.connect(follow=False)
        with stranger(rig.b) as moved:
            relay(rig, moved)
            rig.carried(rig.b, 1)
        assert rig.b.recorder.of("peer_address") == []

    def test_update_path_sends_elsewhere_from_then_on(self, rig: Rig) -> None:
        rig.connect()
        with stranger(rig.b) as other:
            rig.a.engine.update_path(A_SPI, Path(rig.path.local, Endpoint(*other.getsockname())))
            other.connect(tuple(rig.a.endpoint))
            rig.a.send(p.ipv4())
            rig.until(lambda: readable(other))
            assert other.recv(4) == B_SPI.to_bytes(4, "big")

    def test_limits_by_packets_are_told_and_stop_the_pair(self, rig: Rig) -> None:
        rig.connect(volume=Volume(soft_packets=2, hard_packets=4))
        rig.a.send(*[p.ipv4()] * 6)
        rig.until(lambda: rig.drops(rig.a, DropReason.SA_EXPIRED) == 2)
        assert [entry for entry in rig.a.recorder.told if entry[0] in ("soft", "hard")] == [
            ("soft", A_SPI), ("hard", A_SPI)]
        assert len(rig.carried(rig.b, 4)) == 4

    def test_injected_packet_goes_on_the_child_or_says_no(self, rig: Rig) -> None:
        assert not rig.a.engine.inject(p.CHILD, p.ipv4())
        rig.connect()
        assert rig.a.engine.inject(p.CHILD, p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]

    def test_replaced_policy_counts_for_the_next_packet(self, rig: Rig) -> None:
        rig.connect()
        rig.a.send(p.ipv4())
        rig.carried(rig.b, 1)
        rig.a.engine.replace_policy([SpdEntry("no", Action.DISCARD, p.selectors(p.LOCAL), p.selectors(p.REMOTE))], {})
        rig.a.send(p.ipv4())
        rig.until(lambda: rig.drops(rig.a, DropReason.SPD_DISCARD) == 1)

    def test_packet_larger_than_the_inner_mtu_is_dropped(self, rig: Rig) -> None:
        rig.connect()
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        rig.a.engine.replace_policy([entry], {p.CHILD: 500})
        rig.a.send(p.ipv4(payload=p.udp(data=bytes(500))), p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]
        assert rig.drops(rig.a, DropReason.TOO_BIG) == 1

    @pytest.mark.parametrize("family", [4, 6])
    def test_hosts_in_transport_mode_get_each_others_payload(self, rig: Rig, family: int) -> None:
        here, peer = ("10.1.0.1", "10.2.0.1") if family == 4 else ("2001:db8:1::1", "2001:db8:2::1")
        make = p.ipv4 if family == 4 else p.ipv6
        rig.connect(window=1024, transport=TransportEnds(here, peer))
        burst = [make(here, peer, payload=p.udp(data=bytes([n]) * size)) for n, size in enumerate([9, 1200, 0, 77] * 9)]
        rig.a.send(*burst)
        at = 20 if family == 4 else 40
        got = rig.carried(rig.b, len(burst))
        assert [packet[at:] for packet in got] == [packet[at:] for packet in burst]
        assert {packet[12:20] if family == 4 else packet[8:40] for packet in got} == {
            burst[0][12:20] if family == 4 else burst[0][8:40]}
        back = make(peer, here, payload=p.udp(5060, 1234))
        rig.b.send(back, p.ipv4(peer, here, fragment=0x2000) if family == 4 else p.ipv6(peer, here, 0, bytes(
            [17, 0]) + bytes(6) + p.udp()))
        assert rig.carried(rig.a, 1)[0][at:] == back[at:]
        reason = DropReason.OUTBOUND_FRAGMENT if family == 4 else DropReason.TRANSPORT_OPTIONS
        rig.until(lambda: rig.drops(rig.b, reason) == 1)
        assert rig.a.engine.stats().drops == {}

    def test_padded_packets_have_the_sizes_of_steps_and_arrive_as_they_were(self, rig: Rig) -> None:
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        rig.a.engine.replace_policy([entry], {p.CHILD: 1202})
        rig.connect(tfc=Tfc(pad_to=500), window=1024)
        sent = [p.ipv4(payload=p.udp(data=bytes([size % 251]) * size)) for size in (0, 1, 400, 900, 1172, 1174)]
        sent.append(p.ipv6())
        with tap(rig) as sizes:
            rig.a.send(*sent)
            rig.until(lambda: len(sizes()) == len(sent))
        assert [size - 32 for size in sizes()] == [504, 504, 504, 1004, 1204, 1204, 504]   # header, IV, ICV, trailer
        rig.a.send(*sent * 2)                      # the second time their flows are known
        assert rig.carried(rig.b, 2 * len(sent)) == sent * 2
        assert rig.a.engine.stats().pairs[A_SPI].bytes_out == 3 * sum(map(len, sent))

    def test_small_packets_padded_to_large_ones_are_reported_as_large_and_dummies_are_not(self, rig: Rig) -> None:
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        rig.a.engine.replace_policy([entry], {p.CHILD: 1400})
        rig.connect(tfc=Tfc(pad_to=1200))
        assert rig.a.engine.send_dummy(A_SPI, 1200)
        rig.until(lambda: rig.drops(rig.b, DropReason.ESP_DUMMY) == 1)
        assert rig.a.recorder.of("large") == []
        rig.a.send(*[p.ipv4()] * 3)
        rig.carried(rig.b, 3)
        rig.until(lambda: rig.a.recorder.of("large"))
        assert rig.a.recorder.of("large") == [("large", A_SPI)]

    def test_random_padding_stays_within_the_path_and_arrives_as_it_was(self, rig: Rig) -> None:
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        rig.a.engine.replace_policy([entry], {p.CHILD: 1202})
        rig.connect(tfc=Tfc(randomly=True), window=1024)
        sent = [p.ipv4(payload=p.udp(data=bytes(n))) for n in range(100)]
        with tap(rig) as sizes:
            rig.a.send(*sent)
            rig.until(lambda: len(sizes()) == len(sent))
        assert max(sizes()) <= 1202 + 36
        assert len(set(sizes())) > 30
        rig.a.send(*sent)
        assert rig.carried(rig.b, len(sent)) == sent

    def test_packets_are_not_padded_where_the_path_is_not_known(self, rig: Rig) -> None:
        rig.connect(tfc=Tfc(pad_to=9000))
        with tap(rig) as sizes:
            rig.a.send(p.ipv4())
            rig.until(sizes)
        assert sizes()[0] < 100

    def test_dummy_is_counted_by_the_peer_and_reaches_nobody(self, rig: Rig) -> None:
        assert not rig.a.engine.send_dummy(A_SPI, 500)
        rig.connect()
        assert rig.a.engine.send_dummy(A_SPI, 500)
        rig.a.send(p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]
        assert rig.b.engine.stats().drops == {DropReason.ESP_DUMMY: 1}
        assert rig.b.engine.last_inbound(B_SPI) is not None      # it proves the peer alive
        sent = rig.a.engine.stats().pairs[A_SPI]
        assert (sent.packets_out, sent.bytes_out) == (2, 500 + len(p.ipv4()))

    def test_dummy_larger_than_the_path_or_than_any_datagram_goes_nowhere_and_uses_no_number(self, rig: Rig) -> None:
        rig.connect()
        assert not rig.a.engine.send_dummy(A_SPI, MAX_DUMMY_BYTES + 1)
        assert not rig.a.engine.send_dummy(A_SPI, 1 << 40)
        assert rig.a.engine.send_dummy(A_SPI, MAX_DUMMY_BYTES)
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        rig.a.engine.replace_policy([entry], {p.CHILD: 1400})
        assert not rig.a.engine.send_dummy(A_SPI, 1401)
        assert rig.a.engine.send_dummy(A_SPI, 1400)
        assert rig.a.engine.stats().pair_drops[A_SPI] == {DropReason.TOO_BIG: 3}
        assert rig.a.engine.stats().pairs[A_SPI].packets_out == 2
        rig.until(lambda: rig.drops(rig.b, DropReason.ESP_DUMMY) == 2)
        assert rig.b.engine.stats().pairs[B_SPI].lost_in == 0

    def test_dummies_count_for_the_limits_of_a_pair_and_end_with_it(self, rig: Rig) -> None:
        rig.connect(volume=Volume(soft_packets=2, hard_packets=3))
        sent = [rig.a.engine.send_dummy(A_SPI, 100) for _ in range(4)]
        assert sent == [True, True, True, False]
        rig.until(lambda: rig.a.recorder.of("hard"))
        assert rig.a.recorder.of("soft") == [("soft", A_SPI)]
        assert rig.a.engine.stats().drops == {DropReason.SA_EXPIRED: 1}
        rig.a.engine.remove_sa(A_SPI)
        assert not rig.a.engine.send_dummy(A_SPI, 100)

    def test_memory_that_a_sender_shares_with_the_kernel_is_never_opened_in_place(self, rig: Rig) -> None:
        rig.connect()                              # sendfile lends the pages of the file to the datagram
        sealed = make_seal(p.suite(), p.spec(p.suite(), B_SPI), p.SeededRng()).seal(p.ipv4(), TRAILERS[4], 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, tempfile.TemporaryFile() as file:
            file.write(sealed)
            file.flush()
            sock.connect(tuple(rig.b.endpoint))
            assert os.sendfile(sock.fileno(), file.fileno(), 0, len(sealed)) == len(sealed)
            assert rig.carried(rig.b, 1) == [p.ipv4()]
            with mmap.mmap(file.fileno(), len(sealed), prot=mmap.PROT_READ) as pages:
                assert bytes(pages) == sealed

    def test_own_ike_in_the_tun_is_a_loop(self, rig: Rig) -> None:
        rig.connect(local=p.selectors(("0.0.0.0/0",)), remote=p.selectors(("0.0.0.0/0",)))
        rig.a.send(p.ipv4(A_ADDRESS, "10.2.0.1", payload=p.udp(4500, 4500)), p.ipv4(A_ADDRESS, protocol=50))
        rig.until(lambda: rig.drops(rig.a, DropReason.TUN_LOOPED) == 2)

    def test_closed_engine_reads_no_more(self, rig: Rig) -> None:
        rig.connect()
        rig.a.engine.close()
        rig.a.send(p.ipv4())
        rig.b.engine.send_keepalive(Path(rig.path.remote, rig.path.local))
        rig.loop.run_until_complete(asyncio.sleep(0.01))
        assert rig.a.engine.stats().drops == {}
        assert os.read(rig.a.tun.fileno(), 2000) == self.header + p.ipv4()


@contextmanager
def tap(rig: Rig) -> Iterator[Callable[[], list[int]]]:
    """Have a's packets come here in place of b; yields what tells their sizes."""
    sizes: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as catcher:
        catcher.bind((MOVED_ADDRESS, 0))
        rig.a.engine.update_path(A_SPI, Path(rig.path.local, Endpoint(*catcher.getsockname())))

        def read() -> list[int]:
            while catcher.fileno() >= 0 and readable(catcher):
                sizes.append(len(catcher.recv(65535)))
            return sizes
        yield read
    rig.a.engine.update_path(A_SPI, rig.path)


@contextmanager
def stranger(side: Gateway) -> Iterator[socket.socket]:
    """A plain socket on an address of nobody's, connected to a gateway."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((MOVED_ADDRESS, 0))
        sock.connect(tuple(side.endpoint))
        yield sock


def relay(rig: Rig, moved: socket.socket) -> None:
    """Let a's next packet reach b from another address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as catcher:
        catcher.bind((MOVED_ADDRESS, 0))
        rig.a.engine.update_path(A_SPI, Path(rig.path.local, Endpoint(*catcher.getsockname())))
        rig.a.send(p.ipv4())
        rig.until(lambda: readable(catcher))
        moved.send(catcher.recv(2000))


def readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True

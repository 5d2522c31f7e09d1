"""The native engine keeps the engine contract, and goes on where Python does not."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.choose import choose, native_missing
from ipsecd.engine.contract import Engine, EngineListener
from ipsecd.engine.native import NativeEngine
from ipsecd.engine.native_plane import NativePlane, load
from ipsecd.engine.native_selftest import self_test
from ipsecd.engine.reference import Tun
from ipsecd.errors import LocalError
from ipsecd.ipsec.offload import VNET_BYTES
from ipsecd.policy import Action, SpdEntry
from tests.runtime.engine_contract import EngineContract, stranger
from tests.runtime.engine_rig import A_SPI, B_SPI, Recorder, Rig
from tests.support import esp_packets as p
from tests.unit.ipsec.test_offload import DATA, tcp

MISSING = native_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

STALL_S = 0.5
# Sends a packet into one descriptor and waits for it at the other, for a second; prints the longest way in seconds.
_PROBE = """
import socket, sys, time
into, out = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
packet, worst, end = bytes.fromhex(sys.argv[3]), 0.0, time.monotonic() + 1
out.setblocking(True); out.settimeout(3)
print("ready", flush=True)
while time.monotonic() < end:
    start = time.monotonic()
    into.send(packet)
    assert out.recv(65536) == packet
    worst = max(worst, time.monotonic() - start)
print(worst)
"""


class TestNativeEngine(EngineContract):
    def build(self, loop: asyncio.AbstractEventLoop, listener: EngineListener, tun: tuple[str, int],
              sockets: dict[str, socket.socket]) -> Engine:
        return NativeEngine(loop, listener, [Tun(*tun, offload=bool(self.header))], sockets, fault=pytest.fail)

    def test_interpreter_that_stands_still_delays_no_packet(self, rig: Rig) -> None:
        rig.connect()
        # A busy machine may delay some packet in one stall; an engine that needs Python delays one in every stall.
        assert min(self.longest_way_in_a_stall(rig) for _ in range(3)) < STALL_S / 2

    def longest_way_in_a_stall(self, rig: Rig) -> float:
        fds = [rig.a.lan.fileno(), rig.b.lan.fileno()]
        with subprocess.Popen([sys.executable, "-c", _PROBE, *map(str, fds), (self.header + p.ipv4()).hex()],
                              pass_fds=fds, stdout=subprocess.PIPE, text=True) as probe:
            assert probe.stdout is not None
            assert probe.stdout.readline() == "ready\n"
            ctypes.PyDLL(None).usleep(int(STALL_S * 1e6))          # a PyDLL call keeps the interpreter's lock
            return float(probe.stdout.read())

    def test_policy_and_pairs_that_change_all_the_time_lose_no_packet(self, rig: Rig) -> None:
        rig.connect(window=8192)
        entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
        packets = [p.ipv4(payload=p.udp(data=n.to_bytes(4, "big"))) for n in range(3000)]

        def send() -> None:
            for n, packet in enumerate(packets):
                rig.a.send(packet)
                if n % 20 == 0:
                    time.sleep(0.001)
        sender = threading.Thread(target=send)
        sender.start()
        got, generation = [], 0
        while len(got) < len(packets) and generation < 5000:
            generation += 1
            rig.a.engine.replace_policy([entry], {p.CHILD: 1400 + generation % 2})
            offset = generation % 50 * 2
            rig.install(spi_in=0x100000 + offset, spi_out=0x200000 + offset, window=8192)
            rig.a.engine.use_outbound(p.CHILD, 0x100000 + offset)
            got += rig.b.received()
        sender.join()
        got += rig.carried(rig.b, len(packets) - len(got)) if len(got) < len(packets) else []
        assert sorted(got) == sorted(packets)

    def test_flood_of_ike_is_bounded_and_counted_while_python_sleeps(self, rig: Rig) -> None:
        with stranger(rig.b) as sock:
            for _ in range(6000):                  # the loop does not turn: nobody takes them
                sock.send(bytes(4) + b"an IKE message")
            until(lambda: rig.drops(rig.b, DropReason.IKE_QUEUE_OVERFLOW) > 0)
        rig.until(lambda: len(rig.b.recorder.told) >= 4096)
        assert rig.drops(rig.b, DropReason.IKE_QUEUE_OVERFLOW) <= 6000 - 4096

    def test_device_and_socket_come_and_go(self, rig: Rig) -> None:
        rig.connect()
        engine = rig.a.engine
        assert isinstance(engine, NativeEngine)
        assert engine.remove_tun("ipsec0") == (rig.a.tun.fileno(),)
        assert engine.remove_tun("ipsec0") == ()
        rig.a.send(p.ipv4())
        engine.add_tun(Tun("ipsec0", rig.a.tun.fileno(), offload=bool(self.header)))
        assert rig.carried(rig.b, 1) == [p.ipv4()]
        assert engine.remove_socket("127.0.0.1") is rig.a.sock
        rig.a.send(p.ipv4())
        rig.until(lambda: rig.drops(rig.a, DropReason.SEND_FAILED) == 1)
        engine.add_socket("127.0.0.1", rig.a.sock)
        rig.a.send(p.ipv4())
        assert rig.carried(rig.b, 1) == [p.ipv4()]

    def test_keys_that_do_not_fit_are_a_local_error(self, rig: Rig) -> None:
        pair = p.pair(p.suite("aes256gcm16"))
        short = p.pair(p.suite("aes128gcm16"))
        with pytest.raises(LocalError, match="key"):
            rig.a.engine.install_sa(type(pair)(**{name: getattr(pair, name) for name in pair.__slots__}
                                               | {"inbound": short.inbound}))


def test_panic_of_a_thread_is_told_as_a_fault_and_the_engine_goes_on() -> None:
    faults: list[str] = []
    loop = asyncio.new_event_loop()
    engine = NativeEngine(loop, Recorder(), [], {}, fault=faults.append)
    try:
        plane = engine.plane

        class Panicked:
            """A plane one of whose threads panicked."""

            def take_reports(self, most: int) -> list[tuple[str, str]]:
                return [("fault", "panic at src/threads.rs:1")]
        engine.plane = Panicked()  # type: ignore[assignment]
        engine._report()
        engine.plane = plane
        assert faults == ["panic at src/threads.rs:1"]
        assert engine.stats().pairs == {}
    finally:
        engine.close()
        loop.close()


class TestNativeEngineWithOffload(TestNativeEngine):
    header = bytes(VNET_BYTES)

    def test_segments_of_a_flow_arrive_joined(self, rig: Rig) -> None:
        rig.connect(window=1024)
        for at in range(0, 40_000, 1000):
            rig.a.lan.send(self.header + tcp(DATA[at:at + 1000], at))
        parts: list[bytes] = []

        def arrived() -> bool:
            parts.extend(rig.b.received())
            return sum(len(part) - 52 for part in parts) == 40_000
        rig.until(arrived)
        assert b"".join(part[52:] for part in parts) == DATA[:40_000]
        assert len(parts) < 40
        assert rig.b.engine.stats().pairs[B_SPI].packets_in == rig.a.engine.stats().pairs[A_SPI].packets_out == 40

    def test_super_packet_is_cut_and_arrives_joined(self, rig: Rig) -> None:
        rig.connect(window=1024)
        packet = bytearray(tcp(DATA[:40_000]))
        pseudo = bytes(packet[12:20]) + (6).to_bytes(2, "big") + (len(packet) - 20).to_bytes(2, "big")
        packet[36:38] = (~p.checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
        vnet = b"".join(n.to_bytes(2, sys.byteorder) for n in (52, 1000, 20, 16))
        rig.a.lan.send(b"\1\1" + vnet + bytes(packet))
        parts: list[bytes] = []

        def arrived() -> bool:
            parts.extend(rig.b.received())
            return sum(len(part) - 52 for part in parts) == 40_000
        rig.until(arrived)
        assert b"".join(part[52:] for part in parts) == DATA[:40_000]
        assert rig.a.engine.stats().pairs[A_SPI].packets_out == 40


class TestChoice:
    @pytest.mark.parametrize(("word", "name"), [("auto", "native"), ("native", "native"), ("python", "reference"),
                                                ("reference", "reference")])
    def test_word_names_the_engine(self, word: str, name: str) -> None:
        loop = asyncio.new_event_loop()
        engine, why = choose(word, loop, Recorder(), [], clock=time.monotonic, rng=p.SeededRng(), fault=pytest.fail)
        engine.close()
        loop.close()
        assert (engine.name, why) == (name, "")

    def test_self_test_names_the_suite_that_fails(self) -> None:
        class Mute:
            """A plane that sends nothing."""

            def __init__(self) -> None:
                self._plane = load()()

            def __getattr__(self, name: str) -> object:
                return (lambda *_: []) if name == "step_out" else getattr(self._plane, name)

        def new() -> NativePlane:
            return Mute()  # type: ignore[return-value]
        assert "aes256gcm16" in self_test(new)


def until(condition: Callable[[], bool]) -> None:
    """Wait without turning any loop."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

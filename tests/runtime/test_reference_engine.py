"""The reference engine keeps the engine contract."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.contract import Engine, EngineListener
from ipsecd.engine.reference import ReferenceEngine, Tun
from ipsecd.ipsec.offload import VNET_BYTES
from ipsecd.sa import Path
from tests.runtime.engine_contract import EngineContract
from tests.runtime.engine_rig import A_SPI, Recorder, Rig
from tests.support import esp_packets as p
from tests.unit.ipsec.test_offload import DATA, tcp


class TestReferenceEngine(EngineContract):
    def build(self, loop: asyncio.AbstractEventLoop, listener: EngineListener, tun: tuple[str, int],
              sockets: dict[str, socket.socket]) -> Engine:
        return ReferenceEngine(loop, listener, [Tun(*tun, offload=bool(self.header))], sockets, clock=time.monotonic,
                               rng=p.SeededRng())


class TestReferenceEngineWithOffload(TestReferenceEngine):
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

    def test_super_packet_that_nobody_asked_for_is_dropped(self, rig: Rig) -> None:
        rig.a.lan.send(b"\1\1" + self.header[2:] + tcp(DATA[:3000]))
        rig.until(lambda: rig.drops(rig.a, DropReason.TUN_MALFORMED) == 1)


@pytest.mark.parametrize("count", [1, 5])
def test_esp_right_behind_an_ike_message_waits_for_what_it_makes(count: int) -> None:
    # The peer sends on a new SA with, or right behind, the response that tells us its SPI.
    rig = Rig(TestReferenceEngine().build, b"")
    try:
        rig.a.engine.install_sa(p.pair(path=rig.path))
        rig.a.engine.use_outbound(p.CHILD, A_SPI)
        pair = p.pair(path=rig.path, mirror=True)

        class Late(Recorder):
            def ike_datagram(self, path: Path, datagram: bytes) -> None:
                rig.loop.call_soon(rig.b.engine.install_sa, pair)

        rig.b.engine._listener = Late()  # type: ignore[attr-defined]
        packets = [p.ipv4() for _ in range(count)]
        rig.a.engine.send_ike(rig.path, b"response")
        for packet in packets:
            assert rig.a.engine.inject(p.CHILD, packet)
        assert rig.carried(rig.b, count) == packets
        assert rig.b.engine.stats().drops == {}
    finally:
        rig.close()

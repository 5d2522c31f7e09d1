"""The queues of the tunnel device: how many, how long, and what several of them do to the order of packets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipsecd.engine.choose import native_missing
from ipsecd.engine.native import NativeEngine
from ipsecd.policy import RoutingDomain
from ipsecd.routing_plan import Device
from ipsecd.runtime.kernel import Kernel
from ipsecd.runtime.tun import QUEUE_PACKETS, DeviceBusyError, make_device, open_queues, open_tun
from tests.lab.daemon import Config, Ipsecd, tunnel
from tests.lab.rig import Rig, ping
from tests.lab.torrent import Torrent
from tests.support.netns import LAB, Lab, Node, eventually

pytestmark = LAB

FLOWS, PACKETS_PER_S = 6, 500
SMALLEST_WINDOW = 64
STREAMS, STREAM_BYTES = 6, 30_000_000
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TUN_NO_PI = 0x1001


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab() as lab:
        yield lab.node("gw")


def test_queue_of_the_device_holds_what_comes_while_the_loop_is_busy(node: Node) -> None:
    with node.within():
        os.close(open_tun("t0"))
    assert f"qlen {QUEUE_PACKETS}" in node.run("ip", "link", "show", "t0")


def test_device_has_as_many_queues_as_are_asked_for_each_time(node: Node) -> None:
    with node.within():
        for most in (1, 3, 2):
            descriptors = open_queues("t0", most)
            assert f"numqueues {most} " in node.run("ip", "-d", "link", "show", "t0")
            assert len(descriptors) == most
            for descriptor in descriptors:
                os.close(descriptor)


def test_device_made_for_one_queue_is_adopted_with_one_and_stays_the_same_device(node: Node) -> None:
    with node.within():
        make_single("t0")
        index = socket.if_nametoindex("t0")
        for most in (1, 3):
            descriptors = open_queues("t0", most, vnet_hdr_bytes=10)
            assert len(descriptors) == 1
            with pytest.raises(DeviceBusyError):
                open_queues("t0", most)
            os.close(descriptors[0])
        assert socket.if_nametoindex("t0") == index


def test_device_that_somebody_reads_is_not_taken_from_him(node: Node) -> None:
    with node.within():
        descriptors = open_queues("t0", 2)
        node.ip("link set t0 up")
        with pytest.raises(DeviceBusyError):
            open_queues("t0", 2)
        make_device("t0")
        assert "numqueues 2 " in node.run("ip", "-d", "link", "show", "t0")
        for descriptor in descriptors:
            os.close(descriptor)
        os.close(open_tun("t0"))


def test_kernel_keeps_no_queue_disciplines_for_queues_that_are_not_there(node: Node) -> None:
    device = Device("ipsec0", None, 1400, ())
    with node.within(), contextlib.closing(Kernel(RoutingDomain())) as kernel:
        kernel.put_device(device)
        assert "qdisc noqueue" in node.run("ip", "link", "show", "ipsec0")
        node.run("tc", "qdisc", "replace", "dev", "ipsec0", "root", "pfifo")
        node.ip("link set ipsec0 down")
        kernel.put_device(device)
    assert "qdisc pfifo " in node.run("ip", "link", "show", "ipsec0"), "an operator's own stays"


@pytest.mark.skipif(bool(native_missing()) or NativeEngine.queues < 2, reason="one queue, or no native engine")
def test_flows_over_several_queues_lose_nothing_within_the_smallest_replay_window() -> None:
    def configure(config: Config) -> None:
        config["gateway"]["engine"] = "native"
        next(iter(config["peers"].values()))["children"]["office"]["esp"] = {"replay_window": SMALLEST_WINDOW}

    with Rig(watched=False) as rig, ExitStack() as flows:
        daemons = [Ipsecd(rig, site, peer) for site, peer in ((rig.a, rig.b), (rig.b, rig.a))]
        for daemon in daemons:
            daemon.change(configure)
            daemon.start()
        for daemon in daemons:
            daemon.wait_up()
        ends = [(rig.a.host, rig.b.host, rig.b.host4), (rig.b.host, rig.a.host, rig.a.host4)] * FLOWS
        torrents = [flows.enter_context(Torrent(*end, packets_per_s=PACKETS_PER_S)) for end in ends]
        carried = carry_streams(rig)
        flows.close()
        assert carried == STREAMS * STREAM_BYTES
        for daemon in daemons:
            drops = daemon.status()["gateway"]["drops"]
            assert (drops["esp_too_old"], drops["esp_replayed"]) == (0, 0)
            readers = processor_times(daemon.pid, "ipsecd-tun")
            assert len(readers) == NativeEngine.queues
            assert sum(time > 0 for time in readers) > 1, readers
            assert f"ipsec0: queues {NativeEngine.queues}" in daemon.log(10_000)
        lost = [torrent.account for torrent in torrents if torrent.lost or torrent.doubled]
        assert lost == []


@pytest.mark.parametrize("engine", ["native", "python"])
def test_device_of_an_earlier_version_carries_and_keeps_its_one_queue(engine: str) -> None:
    if engine == "native" and native_missing():
        pytest.skip(native_missing())
    with Rig() as rig:
        with rig.a.gateway.within():
            make_single("ipsec0")
            index = socket.if_nametoindex("ipsec0")
        left, right = tunnel(rig)
        ping(rig.a.host, rig.b.host4)
        left.stop()
        left.change(lambda config: config["gateway"].update(engine=engine))
        left.mark()
        left.start()
        left.wait_up()
        assert eventually(lambda: right.child_status()["state"] == "up", within_s=30)
        ping(rig.a.host, rig.b.host4)
        assert ("queues 1 of" in left.said()) == (engine == "native" and NativeEngine.queues > 1)
        with rig.a.gateway.within():
            assert socket.if_nametoindex("ipsec0") == index
        rig.witness.assert_clean()


def make_single(name: str) -> None:
    """Make a persistent device as versions before several queues did."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_PI))
    fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    os.close(descriptor)


def carry_streams(rig: Rig) -> int:
    """Send bytes from one host to the other on several TCP connections at once; return how many arrived."""
    with rig.b.host.within():
        listener = socket.create_server((rig.b.host4, 0), backlog=STREAMS)
    got: list[int] = []

    def take(connection: socket.socket) -> None:
        count = 0
        with connection:
            while data := connection.recv(1 << 20):
                count += len(data)
        got.append(count)

    def give(connection: socket.socket) -> None:
        with connection:
            connection.sendall(bytes(STREAM_BYTES))

    threads = []
    with listener:
        for _ in range(STREAMS):
            with rig.a.host.within():
                connection = socket.socket()
            connection.connect(listener.getsockname())
            threads += [threading.Thread(target=give, args=(connection,)),
                        threading.Thread(target=take, args=(listener.accept()[0],))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(got)


def processor_times(pid: int, name: str) -> list[int]:
    """Return the processor time, in ns, of each thread of a process that has this name."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name]
    return [int((task / "schedstat").read_text().split()[0]) for task in tasks]

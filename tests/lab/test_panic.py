"""A panic in the native engine of a running daemon: told, survived, and nothing passes in clear meanwhile."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.command import rekey_child
from tests.lab.daemon import Ipsecd, bring_up, default_config
from tests.lab.faulty import FAULTY, ORDER, PROGRAM
from tests.lab.rig import Rig, Site, answers, ping
from tests.lab.variant import BUILD_S
from tests.support.netns import LAB, eventually

pytestmark = [*LAB, pytest.mark.long, pytest.mark.timeout(BUILD_S)]
PORT = 7400


@pytest.fixture(scope="module", autouse=True)
def build() -> None:
    missing = FAULTY.build()
    if missing == "no cargo":
        pytest.skip(missing)
    assert missing == ""


@pytest.mark.parametrize("from_a", [True, False], ids=["outbound", "inbound"])
def test_panic_on_a_packet_is_reported_and_no_packet_passes_in_clear(*, from_a: bool) -> None:
    with Rig() as rig:
        left, right = daemons(rig)
        sender, receiver = (rig.a, rig.b) if from_a else (rig.b, rig.a)
        wire = rig.wan.tap("wa")
        process = left._process
        left.mark()
        with traffic(sender, receiver) as arrived:
            for _ in range(3):
                before = len(faults(left))
                order(sender, receiver)
                assert eventually(lambda b=before: len(faults(left)) > b, within_s=10)     # type: ignore[misc]
                count = len(arrived)
                assert eventually(lambda c=count: len(arrived) > c + 20, within_s=10)      # type: ignore[misc]
        told = faults(left)
        assert {event["where"] for event in told} == {"engine"}
        assert all(str(event["error"]).startswith("panic at ") and "faults.rs:" in str(event["error"])
                   for event in told)
        assert ORDER.decode() not in left.said()   # where, and nothing of what
        assert process is not None and process is left._process and process.poll() is None
        assert left.status()["gateway"]["engine"] == "native"
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host6)
        rekey_child(left)                          # commands find the tables whole
        ping(rig.a.host, rig.b.host4)
        assert left.child_status()["drops"] == {}
        frames = wire.frames()
        assert frames
        assert not any(ORDER in frame or b"in clear?" in frame for frame in frames)
        rig.witness.assert_clean()
        right.stop()
        left.kill()
        assert not answers(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()


def daemons(rig: Rig) -> tuple[Ipsecd, Ipsecd]:
    """The left one has the build that panics to order."""
    made = []
    for site, peer, program in ((rig.b, rig.a, ()), (rig.a, rig.b, PROGRAM)):
        config = default_config(site, peer)
        config["gateway"]["engine"] = "native"
        made.append(Ipsecd(rig, site, peer, config=config, program=program))
    right, left = made
    bring_up(left, right)
    return left, right


def faults(daemon: Ipsecd) -> list[dict[str, object]]:
    return [line for line in map(json.loads, daemon.said().splitlines()) if line["event"] == "local_fault"]


def order(sender: Site, receiver: Site) -> None:
    """Send the packet that brings a thread down."""
    with sender.host.within():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(ORDER, (receiver.host4, PORT + 1))


@contextmanager
def traffic(sender: Site, receiver: Site) -> Iterator[list[bytes]]:
    """Datagrams all the time; yields those that have arrived so far."""
    arrived, stop = list[bytes](), threading.Event()
    far, near = receiver.host.udp(receiver.host4, PORT), sender.host.udp(sender.host4)
    far.settimeout(0.1)

    def send() -> None:
        while not stop.wait(0.002):
            near.sendto(b"in clear? " * 50, (receiver.host4, PORT))

    def receive() -> None:
        while not stop.is_set():
            try:
                arrived.append(far.recv(1000))
            except TimeoutError:
                continue

    threads = [threading.Thread(target=work) for work in (send, receive)]
    for thread in threads:
        thread.start()
    try:
        yield arrived
    finally:
        stop.set()
        for thread in threads:
            thread.join()

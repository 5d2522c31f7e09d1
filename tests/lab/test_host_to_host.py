"""Two gateways protect what they say to each other themselves, in transport mode: IPv4, IPv6, and behind a NAT."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.command import rekey_child
from tests.lab.daemon import Ipsecd, default_config
from tests.lab.keylog import keylog
from tests.lab.rig import NAT4, Rig, answers, ping
from tests.support.netns import LAB, Node, eventually

pytestmark = LAB

PORT = 7100


@pytest.mark.parametrize("family", [4, 6])
def test_hosts_talk_to_each_other_under_esp_or_not_at_all(family: int) -> None:
    with Rig() as rig:
        a, b = rig.a.wan(family), rig.b.wan(family)
        left, right = hosts(rig, a, b, family=family)
        assert {daemon.child_status()["mode"] for daemon in (left, right)} == {"transport"}
        assert [sa["mode"] for sa in left.child_status()["sas"]] == ["transport"]
        ping(rig.a.gateway, b)
        ping(rig.b.gateway, a, size=1200)
        assert carried(rig.a.gateway, rig.b.gateway, b, 3_000_000)
        assert carried(rig.b.gateway, rig.a.gateway, a, 3_000_000)
        rekey_child(left)
        ping(rig.a.gateway, b)
        rig.witness.assert_clean()
        assert rig.witness.counts()["esp"] > 100
        # Larger than the path: fragments, which such an SA does not carry.
        assert dropped(left, "outbound_fragment") == 0
        with contextlib.suppress(AssertionError):
            ping(rig.a.gateway, b, size=3000, count=1)
        assert dropped(left, "outbound_fragment") >= 2
        left.kill()
        assert not answers(rig.a.gateway, b)
        assert not answers(rig.b.gateway, a)
        rig.witness.assert_clean()


def test_forwarded_packets_are_never_on_the_pair_and_go_as_policy_says() -> None:
    with Rig() as rig:
        left, right = hosts(rig, rig.a.wan4, rig.b.wan4)
        before = left.child_status()["traffic"]["packets_out"]
        assert not answers(rig.a.host, rig.b.wan4)   # the WAN has no way back to it
        assert b"\x0a\x01\x00\x0a\xc6\x33\x64\x02" in b"".join(rig.witness.strangers())    # bypass: as any router's
        left.change(lambda config: config["policies"].append(
            {"name": "no-transit", "action": "discard", "local": [rig.a.prefix4], "remote": [rig.b.wan4]}))
        left.reload()
        assert not answers(rig.a.host, rig.b.wan4)
        rig.witness.assert_clean()
        assert left.child_status()["traffic"]["packets_out"] == before
        # Nor does the pair take to the peer what is for a host behind it.
        refused = dropped(right, "spd_no_match")
        rig.b.gateway.ip(f"route add {rig.a.prefix4} dev ipsec0")
        assert not answers(rig.b.gateway, rig.a.host4)
        assert dropped(right, "spd_no_match") > refused
        ping(rig.a.gateway, rig.b.wan4)
        rig.witness.assert_clean()


def test_hosts_talk_through_a_nat_with_right_checksums() -> None:
    with Rig(nat=True) as rig:
        left, right = hosts(rig, rig.a.wan4, rig.b.wan4, seen=NAT4)
        assert (left.peer_status()["nat"], right.peer_status()["nat"]) == ("local", "remote")
        ping(rig.a.gateway, rig.b.wan4)
        assert carried(rig.a.gateway, rig.b.gateway, rig.b.wan4, 3_000_000)
        assert carried(rig.b.gateway, rig.a.gateway, NAT4, 3_000_000)
        assert echoed(rig.a.gateway, rig.b.gateway, rig.b.wan4)
        rekey_child(right)
        assert echoed(rig.b.gateway, rig.a.gateway, NAT4)
        rig.rebind_nat(40_000)
        assert eventually(lambda: answers(rig.a.gateway, rig.b.wan4), within_s=20)
        assert carried(rig.b.gateway, rig.a.gateway, NAT4, 100_000)
        rig.witness.assert_clean()


def hosts(rig: Rig, a: str, b: str, *, family: int = 4, seen: str = "", ah: str = "",
          keys: Path | None = None) -> tuple[Ipsecd, Ipsecd]:
    """Start a daemon on each gateway, with one engine each; `seen` is what the right one takes the left one for.

    `ah` is a proposal of AH in place of ESP; the left one writes its keys to a file.
    """
    made = []
    for site, peer, engine, local, remote in ((rig.b, rig.a, "python", b, seen or a), (rig.a, rig.b, "auto", a, b)):
        config = default_config(site, peer, family=family)
        config["gateway"]["engine"] = engine
        entry = next(iter(config["peers"].values()))
        entry["children"]["office"] = {"local": [local], "remote": [remote], "mode": "transport",
                                       "start": "listen" if site is rig.b else "always"}
        if ah:
            entry["children"]["office"]["ah"] = {"proposals": [ah]}
        if seen and site is rig.b:
            del entry["address"]
        daemon = Ipsecd(rig, site, peer, config=config)
        daemon.start(before=keylog(keys) if keys is not None and site is rig.a else ())
        made.append(daemon)
    right, left = made
    left.wait_up()
    right.wait_up()
    rig.witness.strangers()                          # what the links said while they came up
    return left, right


def dropped(daemon: Ipsecd, reason: str) -> int:
    return int(daemon.status()["gateway"]["drops"].get(reason, 0))


@contextmanager
def listening(node: Node, address: str) -> Iterator[socket.socket]:
    with node.within():
        server = socket.create_server((address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.settimeout(30)
    with server:
        yield server


def carried(sender: Node, receiver: Node, address: str, size: int) -> bool:
    """Send bytes over TCP; return whether the same ones arrived."""
    data = hashlib.shake_128(address.encode()).digest(size)
    got = bytearray()

    def receive(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(30)
                while piece := connection.recv(65536):
                    got.extend(piece)

    with listening(receiver, "::" if ":" in address else "0.0.0.0") as server:
        thread = threading.Thread(target=receive, args=(server,))
        thread.start()
        with sender.within():
            connection = socket.create_connection((address, PORT), timeout=30)
        with connection:
            connection.sendall(data)
        thread.join()
    return bytes(got) == data


def echoed(sender: Node, receiver: Node, address: str) -> bool:
    """Send a UDP datagram there and one back; return whether both arrived, which a wrong checksum would not."""
    far, near = receiver.udp("0.0.0.0", PORT), sender.udp("0.0.0.0")
    for sock in (far, near):
        sock.settimeout(10)
    with far, near:
        near.sendto(b"question", (address, PORT))
        question, source = far.recvfrom(100)
        far.sendto(b"answer", source)
        return (question, near.recv(100)) == (b"question", b"answer")

"""ESP as an IP protocol of its own between real daemons: both ways, one way, where a NAT is, and to a bare peer."""

from __future__ import annotations

import base64
import contextlib
import socket
import warnings
from dataclasses import dataclass, field

import pytest

from ipsecd.engine.raw_io import ESP_PROTOCOL
from ipsecd.ike.crypto.keymat import child_keys
from ipsecd.ike.negotiate import accept_esp
from ipsecd.ike.tasks.pick import need
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.ipsec.mtu import inner_mtu
from ipsecd.sa import Path
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, EspSuite
from tests.lab.command import rekey_child, rekey_ike
from tests.lab.daemon import Config, Ipsecd, bring_up, default_config
from tests.lab.rig import OUTER_FRAGMENTS, Rig, Site, answers, ping, ping_every_size
from tests.lab.swan import PSK, RIGHT_ID
from tests.support.exchange import fqdn
from tests.support.mallory import Mallory, child_payloads
from tests.support.netns import LAB, eventually

with warnings.catch_warnings():                    # scapy names ciphers that cryptography deprecates
    warnings.simplefilter("ignore")
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.ipsec import ESP, SecurityAssociation

pytestmark = LAB
GCM256 = EspSuite(next(e for e in ENCRS if e.keyword == "aes256gcm16"), None, esn=True)
A2 = "192.0.2.11"


@pytest.mark.parametrize("family", [4, 6])
def test_raw_tunnel_carries_every_size_and_nothing_in_udp(family: int) -> None:
    with Rig() as rig:
        for site in (rig.a, rig.b):
            site.gateway.sysctl(ipv4__conf__all__rp_filter=1)
        left, right = tunnel(rig, "raw", "raw", family=family)
        tap = rig.wan.tap("wa")
        tap.keep(OUTER_FRAGMENTS)
        mtu = left.child_status()["path_mtu"]
        assert mtu == inner_mtu(GCM256, outer_mtu=1500, outer_version=family, udp=False)
        for target in (rig.b.host4, rig.b.host6):
            ping_every_size(rig.a.host, target, mtu)
        ping(rig.b.host, rig.a.host4)
        rekey_child(left)
        rekey_ike(left)
        ping(rig.a.host, rig.b.host4)
        for daemon, near, far in ((left, rig.a, rig.b), (right, rig.b, rig.a)):
            sa, = daemon.child_status()["sas"]
            assert (sa["encapsulation"], sa["path"]) == ("raw", f"{near.wan(family)} -> {far.wan(family)}")
            assert daemon.peer_status()["nat"] == "none"
        counts = rig.witness.counts()
        assert counts["esp"] == 0
        assert counts["raw_esp"] > 20
        assert tap.frames() == []                  # what is too long is fragmented before ESP, never after
        rig.witness.assert_clean()


def test_peer_that_sends_raw_esp_is_heard_by_one_that_sends_in_udp() -> None:
    with Rig() as rig:
        left, right = tunnel(rig, "raw", "udp")
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host6)
        assert [d.child_status()["sas"][0]["encapsulation"] for d in (left, right)] == ["raw", "udp"]
        counts = rig.witness.counts()
        assert counts["esp"] > 0
        assert counts["raw_esp"] > 0
        for daemon in (left, right):
            assert daemon.child_status()["drops"] == {}
        rig.witness.assert_clean()


def test_raw_tunnel_behind_a_nat_goes_in_udp_and_says_so() -> None:
    with Rig(nat=True) as rig:
        left, right = tunnel(rig, "raw", "raw")
        ping(rig.a.host, rig.b.host4)
        for daemon in (left, right):
            assert daemon.child_status()["sas"][0]["encapsulation"] == "udp"
            assert "esp_in_udp" in daemon.said()
        assert rig.witness.counts()["raw_esp"] == 0


def test_raw_traffic_moves_with_its_gateway_to_another_address() -> None:
    with Rig() as rig:
        left, right = tunnel(rig, "raw", "raw")
        rig.a.gateway.ip(f"addr del {rig.a.wan4}/24 dev wan0", f"addr add {A2}/24 dev wan0",
                         "route replace default via 192.0.2.254")
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=20)
        sa, = right.child_status()["sas"]
        assert sa["path"] == f"{rig.b.wan4} -> {A2}"
        assert left.child_status()["sas"][0]["encapsulation"] == "raw"
        rig.witness.assert_clean()


def test_kernel_refuses_protocol_50_only_while_nobody_serves_it() -> None:
    with Rig() as rig:
        daemon = Ipsecd(rig, rig.a, rig.b, config=default_config(rig.a, rig.b))
        daemon.start()
        tap = rig.wan.tap("wa")
        tap.keep("icmp[0] = 3 and icmp[1] = 2")    # RFC 792: protocol unreachable
        with rig.wan.within():
            stranger = socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP_PROTOCOL)
        with stranger:
            def refused() -> bool:
                stranger.sendto(bytes(40), (rig.a.wan4, 0))
                return bool(tap.frames(outgoing=False))
            assert not refused()
            assert eventually(lambda: daemon.status()["gateway"]["drops"]["esp_unknown_spi"] == 1, within_s=10)
            daemon.stop()
            assert eventually(refused, within_s=10)


def test_auto_goes_without_udp_to_a_peer_that_does_no_nat_traversal() -> None:
    with Rig() as rig:
        left = Ipsecd(rig, rig.a, rig.b, config=default_config(rig.a, rig.b))
        left.change(bare)
        left.start()
        peer = rig.lab.closing.enter_context(contextlib.closing(BarePeer(rig.b, rig.a)))
        assert eventually(lambda: left.peer_status()["state"] == "up", within_s=10)
        for number in range(3):
            peer.send(IP(src=rig.b.host4, dst=rig.a.host4) / ICMP(id=7, seq=number))
            echo = peer.receive()
            assert (echo[IP].src, echo[ICMP].type, echo[ICMP].seq) == (rig.a.host4, 0, number)
        sa, = left.child_status()["sas"]
        assert (sa["encapsulation"], sa["traffic"]["packets_in"]) == ("raw", 3)
        status = left.peer_status()
        assert (status["nat"], status["remote_address"]) == ("unknown", f"{rig.b.wan4}:500")
        assert rig.witness.counts()["esp"] == rig.witness.counts()["ike_natt"] == 0
        rig.witness.assert_clean()


def tunnel(rig: Rig, a: str, b: str, *, family: int = 4) -> tuple[Ipsecd, Ipsecd]:
    """Start a daemon on each side, that of b listening; return both once they are up."""
    left, right = (Ipsecd(rig, site, peer, config=default_config(site, peer, family=family))
                   for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
    left.change(lambda c: peer_of(c).update(encapsulation=a))
    right.change(lambda c: peer_of(c).update(encapsulation=b))
    right.change(lambda c: peer_of(c)["children"]["office"].update(start="listen"))
    if rig.nat:
        right.change(lambda c: peer_of(c).pop("address"))
    bring_up(left, right)
    return left, right


def peer_of(config: Config) -> Config:
    found: Config = next(iter(config["peers"].values()))
    return found


def bare(config: Config) -> None:
    """Wait for a peer, and let scapy's side of it be simple."""
    peer = peer_of(config)
    peer["ike"] = {"proposals": ["aes256gcm16-prfsha256-x25519"]}
    peer["children"]["office"].update(start="listen", esp={"proposals": ["aes256gcm16"], "esn": "no"})


@dataclass
class Answer:
    """A datagram that came back."""

    datagram: bytes


@dataclass
class Far:
    """A daemon at the other end of a socket, where Mallory expects his victim."""

    sock: socket.socket
    address: str
    now: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    def feed(self, datagram: bytes, path: Path) -> list[Answer]:
        self.sock.sendto(datagram, (self.address, 500))
        return [Answer(self.sock.recv(65535))]


class BarePeer:
    """A peer that never heard of NAT traversal: IKE from port 500, and scapy for ESP."""

    def __init__(self, site: Site, other: Site) -> None:
        sock = site.gateway.udp(site.wan4, 500)
        sock.settimeout(10)
        mallory = Mallory(Far(sock, other.wan4), own=fqdn(RIGHT_ID), address=site.wan4,  # type: ignore[arg-type]
                          port=500, psk=Secret(base64.b64decode(PSK.removeprefix("0s"))), nat_traversal=False)
        answer = mallory.login()
        assert answer is not None
        crypto = mallory.crypto
        assert crypto is not None
        offer, agreed = need(child_payloads(spi=0xC0000001), SaPayload), need(answer, SaPayload)
        suite = accept_esp(offer, agreed, ke=0).suite
        keys = child_keys(crypto.suite.prf, crypto.keys.sk_d, suite, ni=mallory.ni, nr=mallory.nr, shared=None)
        spi = int.from_bytes(agreed.proposals[0].spi, "big")
        self._out = SecurityAssociation(ESP, spi, crypt_algo="AES-GCM", crypt_key=keys.encr_i.reveal(),
                                        tunnel_header=IP(src=site.wan4, dst=other.wan4))
        self._in = SecurityAssociation(ESP, 0xC0000001, crypt_algo="AES-GCM", crypt_key=keys.encr_r.reveal(),
                                       tunnel_header=IP(src=other.wan4, dst=site.wan4))
        with site.gateway.within():
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, ESP_PROTOCOL)
        self._raw.settimeout(10)
        self._raw.bind((site.wan4, 0))
        self._other = other.wan4

    def close(self) -> None:
        """Send and hear no more."""
        self._raw.close()

    def send(self, packet: IP) -> None:
        """Send an inner packet."""
        self._raw.sendto(bytes(self._out.encrypt(packet)[ESP]), (self._other, 0))

    def receive(self) -> IP:
        """Return the next inner packet, opened and checked by scapy."""
        return self._in.decrypt(IP(self._raw.recv(65535)))

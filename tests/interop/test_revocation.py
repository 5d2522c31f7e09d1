"""A server of revocation lists behind the WAN: what we fetch from it decides about a live strongSwan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.interop.test_certificates import TODAY, VALID, Certs, CertSwan, ipsecd
from tests.lab.daemon import Ipsecd
from tests.lab.rig import Rig, answers
from tests.lab.swan import RIGHT_ID
from tests.support.netns import LAB, eventually
from tests.support.pki import general_name, issue
from tests.unit.crypto.test_revocation import crl

pytestmark = [*LAB, pytest.mark.interop]

SERVER = "203.0.113.80"
URL = f"http://{SERVER}/root.crl"
OWN_MARK = 0x01000000        # gateway.mark.own where nothing is said


class PublishedCerts(Certs):
    """The peer's certificate names the place of its authority's list."""

    def __init__(self) -> None:
        super().__init__("p256")
        point = x509.DistributionPoint([general_name("uri:" + URL)], None, None, None)
        self.theirs = issue("O=Lab, CN=theirs", self.root, which=2, sans=(RIGHT_ID,),
                            extra=((x509.CRLDistributionPoints([point]), False),), **VALID)

    def list_(self, *, revoked: bool) -> bytes:
        return crl(self.root, (self.theirs,) if revoked else (), start=TODAY - timedelta(hours=1),
                   end=TODAY + timedelta(days=1))


class Server:
    """An HTTP server in a namespace of its own, one hop behind the WAN router."""

    def __init__(self, rig: Rig) -> None:
        self._node = rig.lab.node("crl")
        self.folder: Path = rig.directory / "www"
        self.folder.mkdir()
        rig.lab.link(self._node, "eth0", rig.wan, "wc")
        self._node.address("eth0", f"{SERVER}/24")
        rig.wan.address("wc", "203.0.113.254/24")
        self._node.ip("route add default via 203.0.113.254")
        self._log = rig.directory / "www.log"

    def start(self, data: bytes) -> None:
        (self.folder / "root.crl").write_bytes(data)
        with self._log.open("ab") as log:
            self._node.popen(sys.executable, "-m", "http.server", "--directory", str(self.folder), "--bind", SERVER,
                             "80", stdout=log, stderr=log)
        assert eventually(lambda: ":80" in self._node.run("ss", "-ltn"), within_s=20)

    def cut_off(self) -> None:
        self._node.ip("link set eth0 down")

    def asked_by(self) -> set[str]:
        return {line.split()[0] for line in self._log.read_text().splitlines() if "GET /root.crl" in line}


@contextmanager
def world(revocation: str, data: bytes | None, certs: PublishedCerts, *, remote: list[str] | None = None,
          ) -> Iterator[tuple[Rig, Ipsecd, Server]]:
    """Start both ends and, with a list to give, the server; nothing is up yet."""
    with Rig() as rig:
        server = Server(rig)
        if data is not None:
            server.start(data)
        swan = CertSwan(rig, own=certs.theirs, chain=certs.chain, roots=(certs.root,))
        if remote:
            swan.configure(local_ts=",".join(remote))
        ours = ipsecd(rig, certs, revocation=revocation)
        if remote:
            ours.change(lambda c: c["peers"][ours.peer]["children"][ours.child.split("/")[1]].update(remote=remote))
        rig.a.gateway.nft("table inet seen { chain out { type filter hook output priority 300;\n"
                          f"  ip daddr {SERVER} oifname wan0 meta mark {OWN_MARK} counter comment \"marked\"\n"
                          f"  ip daddr {SERVER} counter comment \"all\"\n}}\n}}")
        swan.start()
        ours.start()
        yield rig, ours, server


@pytest.mark.parametrize("revocation", ["strict", "if-available"])
def test_peer_that_the_fetched_list_names_is_refused(revocation: str) -> None:
    certs = PublishedCerts()
    with world(revocation, certs.list_(revoked=True), certs) as (rig, ours, server):
        assert eventually(lambda: "was revoked" in ours.said(), within_s=30)
        assert "certificate_refused" in ours.said()
        assert not ours.child_status()["sas"]
        assert server.asked_by() == {rig.a.wan4}


def test_fetch_carries_our_mark_and_leaves_by_the_wan_below_a_full_tunnel_and_serves_after_a_restart() -> None:
    certs = PublishedCerts()
    with world("strict", certs.list_(revoked=False), certs, remote=["0.0.0.0/0", "::/0"]) as (rig, ours, server):
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        assert server.asked_by() == {rig.a.wan4}
        assert _marked(rig) > 0
        server.cut_off()
        ours.stop()
        ours.start()
        ours.wait_up()                      # by the list that was stored
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)


def test_server_that_cannot_be_reached_refuses_in_strict() -> None:
    with world("strict", None, PublishedCerts()) as (_, ours, server):
        server.cut_off()
        assert eventually(lambda: "revocation is strict" in ours.said(), within_s=30)
        assert not ours.child_status()["sas"]


def test_server_that_cannot_be_reached_is_only_warned_of_if_available() -> None:
    with world("if-available", None, PublishedCerts()) as (rig, ours, server):
        server.cut_off()
        ours.wait_up()
        assert "revocation_unknown" in ours.said()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)


def _marked(rig: Rig) -> int:
    """Return the packets to the server, all of which carried our mark and left by the WAN."""
    lines = [line for line in rig.a.gateway.run("nft", "list", "table", "inet", "seen").splitlines()
             if "counter packets" in line]
    marked, everything = (int(line.split("counter packets ")[1].split()[0]) for line in lines)
    assert marked == everything
    return marked

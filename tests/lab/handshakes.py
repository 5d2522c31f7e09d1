"""`scripts/bench --handshakes`: IKE_SA_INIT and IKE_AUTH, the responder alone on its core.

Two processes, an IkeEndpoint each, joined by loopback UDP; each initiator is a peer of its own. What counts is how many
handshakes a responder completes for one second of its processor time, key exchanges and signatures included.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path as FilePath
from typing import NamedTuple

import yaml

from ipsecd.config.compile import load_policy
from ipsecd.effects import SendIke, Work
from ipsecd.ike.crypto.certificates import authority_hash, parse_certificate
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.policy import AuthPolicy, CertificateTrust, Credential, Policy
from ipsecd.reports import ChildRequest, ChildUp, IkeFailed
from ipsecd.runtime.entropy import SystemRng
from ipsecd.sa import Endpoint, Path
from tests.lab.swan import PSK
from tests.support.pki import WALL_NOW, Entity, authority, issue

INITIATOR, RESPONDER = "192.0.2.1", "198.51.100.2"
IN_FLIGHT = 2                                    # a source with three half-open SAs is asked for a cookie
SILENT_S = 10.0


class Kind(NamedTuple):
    """A kind of handshake, and how many a second of processor time are wanted."""

    name: str
    proposal: str
    certificates: bool
    wanted: int


KINDS = (Kind("X25519, pre-shared key", "aes256gcm16-prfsha384-x25519", False, 500),
         Kind("X25519, RSA-2048 certificates", "aes256gcm16-prfsha384-x25519", True, 200),
         Kind("X25519 and ML-KEM-768, pre-shared key", "aes256gcm16-prfsha384-x25519-ke1_mlkem768", False, 150))


class Party:
    """An endpoint behind a connected socket; each datagram is led by the virtual UDP port that it goes to."""

    def __init__(self, policy: Policy, sock: socket.socket, *, here: str, there: str) -> None:
        self.policy = policy
        self.up = 0
        self._sock, self._here, self._there = sock, here, there
        self._endpoint = IkeEndpoint(policy, SystemRng(), now=time.monotonic(), last_inbound=lambda _: None,
                                     wall_clock=lambda: WALL_NOW)

    def initiate(self, number: int) -> None:
        """Start the handshake of one peer."""
        child = self.policy.peers[number].children[0]
        path = Path(Endpoint(self._here, 500), Endpoint(self._there, 500))
        self._endpoint.initiate(child.key.peer, path, (ChildRequest(child.key, 0, child.local, child.remote),),
                                time.monotonic())
        self._drain()

    def receive(self, wait_s: float) -> bool:
        """Take one datagram; return whether one came within `wait_s`."""
        if not select.select([self._sock], [], [], wait_s)[0]:
            return False
        datagram = self._sock.recv(65536)
        port = int.from_bytes(datagram[:2], "big")
        self._endpoint.receive(datagram[2:], Path(Endpoint(self._here, port), Endpoint(self._there, port)),
                               time.monotonic())
        self._drain()
        return True

    def _drain(self) -> None:
        while effects := self._endpoint.take_effects():
            for effect in effects:
                match effect:
                    case SendIke(path=path, datagram=datagram):
                        self._sock.send(path.remote.port.to_bytes(2, "big") + datagram)
                    case Work(id=number, job=job):
                        self._endpoint.work_done(number, job(), time.monotonic())
                    case ChildUp():
                        self.up += 1
                    case IkeFailed(failure=failure):
                        raise AssertionError(str(failure))
                    case _:
                        pass                     # installing SAs is the engine's, events are the log's


def report_handshakes(count: int) -> str:
    """Return how many of each kind a responder completes, as text."""
    return "\n".join(f"{kind.name:40} {handshakes_per_s(count, kind):5.0f} handshakes a second of the responder's "
                     f"processor time ({kind.wanted})" for kind in KINDS)


def handshakes_per_s(count: int, kind: Kind = KINDS[0]) -> float:
    """Return how many of `count` handshakes a responder completes for a second of processor time."""
    ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (ours, theirs):
        sock.bind(("127.0.0.1", 0))
    ours.connect(theirs.getsockname())
    theirs.connect(ours.getsockname())
    calling, called = (_policy(count, kind, initiator=initiator) for initiator in (True, False))
    if kind.certificates:
        calling, called = _certified(calling, called)
    responder = Party(called, ours, here=RESPONDER, there=INITIATOR)
    pid = os.fork()
    if pid == 0:
        try:
            _initiate_all(Party(calling, theirs, here=INITIATOR, there=RESPONDER), count)
        finally:
            os._exit(0)
    try:
        start = time.process_time()
        while responder.up < count:
            if not responder.receive(SILENT_S):
                raise AssertionError(f"silence after {responder.up} handshakes")
        return count / (time.process_time() - start)
    finally:
        os.waitpid(pid, 0)
        ours.close()
        theirs.close()


def _initiate_all(party: Party, count: int) -> None:
    started = 0
    while party.up < count:
        while started < min(count, party.up + IN_FLIGHT):
            party.initiate(started)
            started += 1
        if not party.receive(SILENT_S):
            return


def _certified(calling: Policy, called: Policy) -> tuple[Policy, Policy]:
    """Return both policies with certificates of one authority in place of the pre-shared key."""
    root = authority(kind="rsa2048", which=3)
    hub = _credential(issue("O=Example, CN=hub", root, kind="rsa2048", which=4, sans=("hub.example.net",)))
    trusted = CertificateTrust((root.der,), (authority_hash(parse_certificate(root.der)),))
    branches = [_credential(issue(f"O=Example, CN={p.name}", root, kind="rsa2048", which=5,
                                  sans=(f"{p.name}.example.net",))) for p in calling.peers]
    return (replace(calling, peers=tuple(replace(p, auth=AuthPolicy(own, trusted))
                                         for p, own in zip(calling.peers, branches, strict=True))),
            replace(called, peers=tuple(replace(p, auth=AuthPolicy(hub, trusted)) for p in called.peers)))


def _credential(entity: Entity) -> Credential:
    return Credential((entity.der,), entity.pkcs8)


def _policy(count: int, kind: Kind, *, initiator: bool) -> Policy:
    """Return the policy of `count` initiators, or of their responder, each pair with selectors of its own."""
    def peer(number: int) -> dict[str, object]:
        name, hub = f"branch-{number}.example.net", "hub.example.net"
        branch, centre = [f"10.{number >> 8}.{number & 255}.0/24"], ["172.16.0.0/16"]
        return {"identity": hub if initiator else name, "local_identity": name if initiator else hub,
                "auth": {"psk": PSK}, "ike": {"proposals": [kind.proposal]},
                "children": {"office": {"local": branch if initiator else centre, "start": "listen",
                                        "remote": centre if initiator else branch,
                                        "esp": {"proposals": ["aes256gcm16"]}}},
                **({"address": [RESPONDER]} if initiator else {})}

    config = {"gateway": {"cookie_threshold": 1000}, "peers": {f"branch-{n}": peer(n) for n in range(count)}}
    with tempfile.TemporaryDirectory() as directory:
        path = FilePath(directory, "ipsecd.yaml")
        path.touch(mode=0o600)                   # it holds the key itself
        path.write_text(yaml.safe_dump(config))
        return load_policy(path, credentials_directory=None).policy

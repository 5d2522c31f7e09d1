"""What is fuzzed: each target takes any bytes and ends in what it declares, or it has found a fault.

    wire         the codec: datagrams, chains of payloads
    clear        datagrams of strangers at an endpoint that answers, and at one that asks
    opened       messages under valid keys, before and after authentication, as requests and as responses
    certificate  certificates, names, revocation lists, OCSP answers, signatures, private keys
    config       configuration text, and requests of the control socket
    packet       packets of the device, datagrams on an SA, and any content under its keys

`scripts/fuzz` runs one under atheris, guided by coverage; tests/fuzz/test_targets.py runs all of them over the seeds,
the corpus and mutations that are the same each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from ipsecd.config.compile import compile_accepted
from ipsecd.control.jsonin import BadRequest, parse_request
from ipsecd.drops import DropReason
from ipsecd.errors import AuthenticationError, ConfigError, PeerError, WireError
from ipsecd.ike.consts import ExchangeType, IdType
from ipsecd.ike.crypto.cert_identity import check_identity
from ipsecd.ike.crypto.certificates import CertificateRefused, parse_certificate, parse_dn
from ipsecd.ike.crypto.public_keys import import_private_key
from ipsecd.ike.crypto.revocation import Status, crl_status, ocsp_status
from ipsecd.ike.crypto.signatures import Signature, verify
from ipsecd.ike.wire import rules
from ipsecd.ike.wire.message import build_payloads, names, parse_payloads
from ipsecd.ike.wire.payloads import MAX_ID_BYTES
from ipsecd.ipsec import ip
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.offload import VNET_BYTES, frames
from ipsecd.ipsec.runs import open_run
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.spd import Flow
from ipsecd.policy import Action, Identity, SpdEntry
from ipsecd.reports import ChildRequest
from ipsecd.sa import ChildKey, Endpoint, Path
from ipsecd.secret import Secret
from tests.support import esp_packets as p
from tests.support.codec import take_datagram
from tests.support.exchange import A, B, policy_a
from tests.support.mallory import Mallory, child_payloads, rekey_notify
from tests.support.pki import WALL_NOW, authority, issue, key
from tests.support.victim import Victim
from tests.unit.crypto.test_revocation import answer, crl

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """One target, and inputs that reach far into it."""

    run: Run
    seeds: Callable[[], list[bytes]]


# wire


def wire(data: bytes) -> None:
    """Do all that the codec does for a datagram, and for a chain whose first type is the first byte."""
    take_datagram(data)
    try:
        inner = parse_payloads(data[0] if data else 0, data[1:])
    except WireError:
        return
    names(inner)
    assert sum(len(part.build()) for part in inner) <= 2 * len(data) + 64
    for exchange in (34, 35, 36, 37):
        try:
            rules.check(exchange, bool(len(data) % 2), inner)
        except PeerError:
            continue


def _messages() -> list[bytes]:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    return [mallory.init_request, mallory.init_response, _content(mallory.auth_payloads()),
            _content((rekey_notify(b"\xc0\0\0\1"), *child_payloads()))]


def _content(payloads: tuple[object, ...]) -> bytes:
    first, body = build_payloads(payloads)  # type: ignore[arg-type]
    return bytes([first]) + body


# clear


def clear(data: bytes) -> None:
    """Hand a datagram to an endpoint in one of three places; the first byte says which."""
    place, datagram = (data[0] % 3, data[1:]) if data else (0, b"")
    victim = Victim(policy_a(), keep_log=False)
    port = Endpoint(A, 500 if place < 2 else 4500), Endpoint(B, 500 if place < 2 else 4500)
    if place == 1:
        request = _initiated(victim)
        datagram = request[:8] + datagram[8:]          # or nothing would ever be looked at
    elif place == 2:
        mallory = Mallory(victim)
        mallory.login(child=False)
        assert mallory.crypto is not None
        datagram = mallory.crypto.spi_i + mallory.crypto.spi_r + datagram[16:]
    for _ in range(2):
        answers = victim.feed(datagram, Path(*port))
        assert sum(len(a.datagram) for a in answers) <= max(len(datagram), 600) + 900
    victim.check()
    victim.wait(31)
    assert victim.endpoint.half_open == 0
    victim.check()


def _initiated(victim: Victim) -> bytes:
    child = victim.endpoint._table.policy.peers[0].children[0]
    victim.endpoint.initiate("b", Path(Endpoint(A, 500), Endpoint(B, 500)),
                             (ChildRequest(child.key, 0, child.local, child.remote),), victim.now)
    return victim.drain()[-1].datagram


def _clear_seeds() -> list[bytes]:
    request, response, *_ = _messages()
    return [b"\0" + request, b"\1" + response, b"\1" + request, b"\2" + request, b"\2" + bytes(16) + request[16:]]


# opened


def opened(data: bytes) -> None:
    """Say things under valid keys: pieces of the input, each an exchange, a direction and a chain of payloads.

    The first byte tells whether the IKE SA is authenticated, and whether the victim waits for a response of ours.
    """
    start, data = (data[0], data[1:]) if data else (0, b"")
    victim = Victim(policy_a("lan", "voice"), keep_log=False)
    mallory = Mallory(victim)
    if start & 1:
        assert mallory.login() is not None
    else:
        assert mallory.init()
    asked = _asked(victim, start >> 1) if start & 1 else 0
    for number, (exchange, response, content) in enumerate(_pieces(data)):
        first, body = (content[0], content[1:]) if content else (0, b"")
        message_id = asked if response else mallory.next_id + number
        mallory.send(mallory.seal(first, body, exchange=exchange, message_id=message_id, response=response))
    victim.check()
    victim.wait(200)
    victim.check()


def _asked(victim: Victim, what: int) -> int:
    """Have the victim ask something; return its Message ID."""
    endpoint, now = victim.endpoint, victim.now
    handle, (spi,) = endpoint.views()[0].handle, victim.installed
    match what % 5:
        case 1:
            endpoint.rekey_child(spi, now)
        case 2:
            endpoint.rekey_ike(handle, now)
        case 3:
            child = endpoint._table.policy.peers[0].children[1]
            endpoint.create_child(handle, ChildRequest(child.key, 0, child.local, child.remote), now)
        case 4:
            endpoint.check_liveness(handle, now)
        case _:
            return 0
    sent = victim.drain()
    return int.from_bytes(sent[-1].datagram[20:24], "big")


def _pieces(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    exchanges = (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL,
                 ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_FOLLOWUP_KE, 38, 240)
    for _ in range(3):
        if len(data) < 3:
            return
        head, size = data[0], int.from_bytes(data[1:3], "big")
        yield exchanges[head % len(exchanges)], bool(head & 0x80), data[3:3 + size]
        data = data[3 + size:]


def piece(exchange: int, payloads: tuple[object, ...], *, response: bool = False) -> bytes:
    """Return one piece of an input of `opened`; the exchange by its place in the list there."""
    content = _content(payloads)
    return bytes([exchange | (0x80 if response else 0)]) + len(content).to_bytes(2, "big") + content


def _opened_seeds() -> list[bytes]:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.init()
    auth = mallory.auth_payloads()
    rekey = (rekey_notify(b"\xc0\0\0\1"), *child_payloads())
    delete = b"\2\0\x0d\x2a\0\0\0\x0c\3\4\0\1\xc0\0\0\1"
    seeds = [b"\0" + piece(0, auth), b"\1" + piece(1, rekey), b"\1" + piece(1, child_payloads()), b"\1" + delete,
             b"\1" + piece(1, rekey) + delete, b"\1" + b"\2\0\1\0"]
    answers = [child_payloads(spi=0xC1000001, local="10.2.0.0/16", remote="10.1.0.0/16")]
    seeds += [bytes([1 | what << 1]) + piece(1, answers[0], response=True) for what in (1, 2, 3)]
    return [*seeds, bytes([1 | 4 << 1]) + b"\x82\0\1\0"]


# certificate


ROOT = authority()
LEAF = issue("O=Example, CN=gw", ROOT, sans=("gw.example.net", "a@example.net", "10.0.0.1"))
FACTS, ISSUER = parse_certificate(LEAF.der), parse_certificate(ROOT.der)
KEYS = tuple(key(kind).public_key() for kind in ("rsa2048", "p256", "ed25519"))


def certificate(data: bytes) -> None:
    """Take the bytes for each thing that names or proves somebody."""
    try:
        found = parse_certificate(data)
        check_identity(found, Identity(IdType.FQDN, b"gw.example.net"))
        str(found)
    except CertificateRefused:
        pass
    address = data[:16].ljust(16, b"\0")                    # the codec lets no other size pass
    for kind, body in ((IdType.DER_ASN1_DN, data), (IdType.FQDN, data), (IdType.RFC822_ADDR, data),
                       (IdType.IPV6_ADDR, address), (IdType.IPV4_ADDR, address[:4]), (99, data)):
        claimed = Identity(kind, body[:MAX_ID_BYTES])
        try:
            check_identity(FACTS, claimed)
            assert kind != IdType.DER_ASN1_DN or parse_dn(claimed.data) == FACTS.subject
        except CertificateRefused:
            pass
        assert len(str(claimed)) <= 300
    for ask in (crl_status, ocsp_status):
        assert isinstance(ask(data, FACTS, ISSUER, wall_now=WALL_NOW), Status)
    for public in KEYS:
        for method in (1, 9, 14):
            try:
                verify(public, Signature(method, data), b"octets", legacy=True)
            except AuthenticationError:
                continue
            raise AssertionError("these bytes sign what nobody signed")
    for passphrase in (None, Secret(b"word")):
        with contextlib.suppress(ValueError):
            import_private_key(data, passphrase)


def _certificate_seeds() -> list[bytes]:
    return [LEAF.der, ROOT.der, crl(ROOT, (LEAF,)), answer(LEAF, ROOT), LEAF.cert.subject.public_bytes(),
            LEAF.pkcs8.reveal(),
            bytes.fromhex("0f300d06092a864886f70d01010b0500") + bytes(256),
            bytes.fromhex("0c300a06082a8648ce3d040302") + bytes.fromhex("3006020101020101")]


# config


class Anything(BaseModel):
    """A request of the control socket."""

    peer: str
    children: list[str] = []
    wait: float = 0.0


def config(data: bytes) -> None:
    """Take the bytes for a configuration, and for a request."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    problems: list[str] | None = None
    try:
        loaded = compile_accepted(text, "f")
        assert compile_accepted(loaded.text, "again").policy == loaded.policy
    except ConfigError as error:
        problems = error.problems
    assert problems is None or problems
    assert all(line.startswith("f:") and "\n" not in line for line in problems or ()), problems
    with contextlib.suppress(BadRequest):
        parse_request(data, Anything)


def _config_seeds() -> list[bytes]:
    return [b"""gateway: {identity: gw.example.net, listen: [192.0.2.1]}
peers:
  hq:
    address: 192.0.2.9
    auth: {psk: kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkx}
    ike: {lifetime: 4h, proposals: [aes256gcm16-prfsha384-x25519]}
    children:
      lan: {local: 10.1.0.0/16, remote: [10.2.0.0/16, 10.3.0.0/16], esp: {lifetime: 1h, replay_window: 1024}}
""", b"""policies:
- {name: dns, action: bypass, remote: [{prefix: 10.9.0.0/16, protocol: udp, port: 53}]}
- {action: discard, local: any}
peers: {}
""", b'{"peer": "hq", "children": ["lan"], "wait": 1.5}']


# packet


def packet(data: bytes) -> None:
    """Take the bytes for a packet of the device, a datagram on an SA, its content, and packets to be joined."""
    plane = _plane()
    verdict = plane.route(data, "ipsec0", 0.0)
    assert isinstance(verdict, Pair | ChildKey | DropReason)
    assert plane.drops == ({verdict: 1} if isinstance(verdict, DropReason) else {})
    if isinstance(verdict, Pair):
        plane.seal(verdict, data, 0.0)
    _on_an_sa(data)
    _under_its_keys(data)
    half = len(data) // 2
    for udp in (False, True):
        packets = [part for part in (data[:half], data[half:], data) if part]
        assert sorted(frames(packets, udp=udp)) == sorted(bytes(VNET_BYTES) + part for part in packets)


def _on_an_sa(data: bytes) -> None:
    plane = _plane()
    pair = plane.sad.by_spi[0x1000]
    datagram = (0x1000).to_bytes(4, "big") + data
    assert plane.open(pair, datagram, 0, len(datagram), pair.path, len(data) % 256, 0.0) in (
        DropReason.ESP_SHORT, DropReason.ESP_BAD_ICV, DropReason.ESP_TOO_OLD)
    taken: list[bytes] = []
    for size in (len(datagram), 40):
        open_run(plane, pair, datagram * 3, 0, size, pair.path, 0.0, taken)
    assert taken == []
    assert (pair.window.top, pair.inward.packets) == (0, 0)


def _under_its_keys(data: bytes) -> None:
    plane, sender = _plane(), Pair(p.pair(mirror=True), p.SeededRng(), 0)
    next_header = 41 if data[:1] >= b"\x60" else 4
    trailers = tuple(bytes(range(1, n + 1)) + bytes((n, next_header)) for n in range(4))
    datagram = sender.sealer.seal(data, trailers, 1)
    pair = plane.sad.by_spi[0x1000]
    result = plane.open(pair, datagram, 0, len(datagram), pair.path, len(data) % 4, 0.0)
    if not isinstance(result, bytes):
        assert plane.drops == {result: 1}
        return
    headers = ip.parse(result)
    assert not isinstance(headers, ip.Fault)
    assert headers.length == len(result)
    assert pair.selects(Flow(headers.version, headers.destination, headers.source, headers.protocol,
                             headers.destination_port, headers.source_port)) or ip.quoted_packet(result, headers)


def _plane() -> Dataplane:
    plane = Dataplane(p.SeededRng())
    plane.add_device("ipsec0", None)
    plane.replace_policy([SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)], {})
    plane.install_sa(p.pair())
    plane.use_outbound(p.CHILD, 0x1000, 0.0)
    return plane


def _packet_seeds() -> list[bytes]:
    back = p.ipv4("10.2.0.1", "10.1.0.1")
    return [p.ipv4(), p.ipv6(), p.ipv4(protocol=1, payload=p.icmp(3, 0, p.ipv4())), p.ipv4(options=bytes(8)), back,
            p.ipv6("2001:db8:2::1", "2001:db8:1::1"), p.ipv6(following=58, payload=p.icmp(1, 0, p.ipv6())),
            p.ipv6(following=0, payload=b"\x3c\0" + bytes(6) + b"\x2c\0" + bytes(6) + b"\x11\0\0\1" + bytes(4)
                   + p.udp())]


TARGETS: dict[str, Target] = {
    "wire": Target(wire, _messages),
    "clear": Target(clear, _clear_seeds),
    "opened": Target(opened, _opened_seeds),
    "certificate": Target(certificate, _certificate_seeds),
    "config": Target(config, _config_seeds),
    "packet": Target(packet, _packet_seeds),
}

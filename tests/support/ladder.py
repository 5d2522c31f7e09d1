"""The mutation ladder: each message of an operation, changed in every way, on the wire and inside its seal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ipsecd.aead import make_sealer
from ipsecd.causes import Cause
from ipsecd.events import LocalFault
from ipsecd.ike.consts import PayloadType
from ipsecd.ike.session import IkeCrypto
from ipsecd.ike.wire.message import SealedMessage, split
from ipsecd.policy import Policy
from ipsecd.reports import ChildRequest
from ipsecd.sa import Endpoint, Path
from ipsecd.secret import Secret
from tests.support.exchange import (
    NETS,
    A,
    B,
    Two,
    child_policy,
    ike_policy,
    peer_policy,
    policy,
    policy_a,
)
from tests.support.sim import Datagram
from tests.support.victim import check_tables

C = "198.51.100.3"
C_PSK = Secret(b"the key of the innocent peer, thirty-two or more")
AGE_S = 10**8                                   # thousands of rungs take hours of virtual time
FOR_EVER = ike_policy(lifetime_s=AGE_S)
LENGTHS = (0, 1, -1, 1, 65535)                  # to 0, 1; less and more by one; to 65535

Change = Callable[[bytes], bytes | None]        # of a datagram, or of the plaintext in it; None loses it
Chain = list[tuple[int, bytes]]                 # payload type, and the payload with its generic header


class World(Two):
    """A and B with what is attacked between them, and C, whose IKE SA with B must never notice."""

    def __init__(self, *, fragment_bytes: int = 1280) -> None:
        ike = ike_policy(request_timeout_s=20, fragment_bytes=fragment_bytes)
        super().__init__(policy_a("lan", "voice", ike=ike), _policy_b(ike.fragment_bytes))
        self.c = self.net.add("c", C, policy(peer_policy("b", B, own="c.example", other="b.example", psk=C_PSK,
                              ike=FOR_EVER,
                              children=(child_policy("b", "lan", "10.77.0.0/16", "10.2.0.0/16", lifetime_s=AGE_S),))))
        for table in (self.a.endpoint._table, self.c.endpoint._table):
            for child in table.policy.peers[0].children:
                table.may_probe(child)               # the early probe is not what is attacked
        entry = self.c.endpoint._table.policy.peers[0].children[0]
        request = ChildRequest(entry.key, 0, entry.local, entry.remote)
        self.c.endpoint.initiate("b", Path(Endpoint(C, 500), Endpoint(B, 500)), (request,), self.net.now)
        self.net.run(1)
        self.innocent = [(v.spi_i, v.spi_r) for v in self.c.endpoint.views()]
        self.innocent_pairs = {h.name: set(h.pairs) for h in (self.b, self.c)}
        assert len(self.innocent) == 1
        assert len(self.c.pairs) == 1

    def prepare(self) -> int:
        """A makes its IKE SA with one child; return the handle."""
        self.net.sent.clear()
        handle = self.initiate(self.a, "lan")
        self.net.run(2)
        assert len(self.a.established()) == 1
        return handle

    def end(self) -> None:
        """Delete all that A and B have; nothing may be left, and C is as it was."""
        self.net._rewrite.clear()
        for host, peer in ((self.a, "b"), (self.b, "a")):
            for view in host.endpoint.views():
                if view.peer == peer:
                    host.endpoint.delete_ike(view.handle, self.net.now, Cause.OPERATOR)
        self.net.run(70)
        assert not self.a.endpoint.views(), self.a.endpoint.views()
        assert not self.a.pairs
        assert [(v.spi_i, v.spi_r) for v in self.b.endpoint.views()] == self.innocent
        assert set(self.b.pairs) == self.innocent_pairs["b"]
        assert set(self.c.pairs) == self.innocent_pairs["c"]
        assert not self.a.endpoint._deadlines._armed, "an orphan deadline"
        for host in (self.a, self.b, self.c):
            host.log.clear()

    def sane(self) -> None:
        """After the last datagram: no fault, tables in order, nothing half-open, nothing waiting."""
        for host in (self.a, self.b, self.c):
            assert not host.events(LocalFault), host.events(LocalFault)
            check_tables(host.endpoint, set(host.pairs), self.net.now)
            assert host.endpoint.half_open == 0
            for sa in host.endpoint._table.sas.values():
                assert not sa.session.tasks()
                assert not sa.runner.busy
                assert not sa._channel._requests._pieces
                assert not sa._channel._responses._pieces
        assert [(v.spi_i, v.spi_r) for v in self.c.endpoint.views()] == self.innocent

    def agree(self) -> None:
        """Both ends hold the same IKE SAs and twin pairs, each of which sends."""
        a, b = self.a, self.b
        assert [v.spi_r for v in a.endpoint.views()] == [v.spi_r for v in b.endpoint.views() if v.peer != "c"]
        ours = set(b.pairs) - self.innocent_pairs["b"]
        assert {a.pairs[spi].outbound.spi for spi in a.pairs} == ours
        assert set(a.outbound.values()) == set(a.pairs)
        for pair in a.pairs.values():
            twin = b.pairs[pair.outbound.spi]
            assert (twin.inbound.encr_key, twin.outbound.encr_key) == (pair.outbound.encr_key, pair.inbound.encr_key)

    def settle(self) -> None:
        """Let everything end that ends, and each end find out whether the other one still has its IKE SA."""
        self.net.run(35)
        for host, peer in ((self.a, "b"), (self.b, "a")):
            for view in host.endpoint.views():
                if view.peer == peer:
                    host.endpoint.check_liveness(view.handle, self.net.now)
        self.net.run(70)


Act = Callable[[World, int], object]            # with the handle of A's IKE SA, 0 where there is none

ACTS: dict[str, Act] = {
    "establish": lambda w, _: w.initiate(w.a, "lan"),
    "create": lambda w, h: w.a.endpoint.create_child(h, w.requests(w.a, "voice")[0], w.net.now),
    "rekey_child": lambda w, _: w.b.endpoint.rekey_child(min(set(w.b.pairs) - w.innocent_pairs["b"]), w.net.now),
    "rekey_ike": lambda w, h: w.a.endpoint.rekey_ike(h, w.net.now),
    "delete_child": lambda w, _: w.a.endpoint.delete_child(min(w.a.pairs), w.net.now, Cause.OPERATOR),
    "delete_ike": lambda w, h: w.a.endpoint.delete_ike(h, w.net.now, Cause.OPERATOR),
}


def change_one(world: World, act: str, at: int, change: Callable[[World, Datagram], bytes | None], *,
               each: bool = False) -> None:
    """Do something of which the `at`-th datagram of A and B is changed, or each; repetitions of it pass."""
    count = 0

    def meddle(datagram: Datagram) -> Datagram | None:
        nonlocal count
        if C in (datagram.source.address, datagram.destination.address):
            return datagram
        count += 1
        if count - 1 != at and not each:
            return datagram
        data = change(world, datagram)
        return None if data is None else Datagram(datagram.source, datagram.destination, data)

    handle = 0 if act == "establish" else world.prepare()
    world.net.sent.clear()
    world.net.rewrite(meddle)
    ACTS[act](world, handle)


def inside(change: Change) -> Callable[[World, Datagram], bytes | None]:
    """Change the plaintext of a sealed message under its own keys; a clear one, after its header."""
    def apply(world: World, datagram: Datagram) -> bytes | None:
        message = split(datagram.data)
        if not isinstance(message, SealedMessage):
            header, body = datagram.data[:28], change(bytes([datagram.data[16]]) + datagram.data[28:])
            if body is None:
                return None
            return header[:16] + body[:1] + header[17:24] + (27 + len(body)).to_bytes(4, "big") + body[1:]
        return _resealed(world, message, change)
    return apply


def _resealed(world: World, message: SealedMessage, change: Change) -> bytes | None:
    crypto = _crypto_of(world, message)
    keys = crypto.keys
    pair = (keys.sk_ei, keys.sk_ai) if message.header.is_initiator else (keys.sk_er, keys.sk_ar)
    sealer = make_sealer(crypto.suite.encr, crypto.suite.integ, encr_key=pair[0], integ_key=pair[1])
    clear, body = message.datagram[:message.body_offset], message.datagram[message.body_offset:]
    iv = body[:sealer.iv_bytes]
    plain = sealer.open(iv, body[sealer.iv_bytes:], clear)
    changed = change(bytes([message.first_inner]) + plain[:-1 - plain[-1]])
    if changed is None:
        return None
    inner = changed[1:] + b"\0"
    fragment = clear[32:]
    size = 4 + len(fragment) + sealer.iv_bytes + len(inner) + sealer.icv_bytes
    head = (clear[:24] + (28 + size).to_bytes(4, "big") + changed[:1] + clear[29:30] + size.to_bytes(2, "big")
            + fragment)
    return head + iv + sealer.seal(iv, inner, head)


def _crypto_of(world: World, message: SealedMessage) -> IkeCrypto:
    spis = message.header.spi_i, message.header.spi_r
    return next(sa.session.crypto for host in (world.a, world.b) for sa in host.endpoint._table.sas.values()
                if (sa.session.crypto.spi_i, sa.session.crypto.spi_r) == spis)


# Mutants of bytes


def flips(size: int, *, step: int, start: int = 0) -> Iterator[tuple[str, Change]]:
    """Flip one byte at a time, another bit each."""
    for at in range(start, size, step):
        yield f"flip {at}", lambda b, at=at: b[:at] + bytes([b[at] ^ (1 << at % 8)]) + b[at + 1:] if at < len(b) else b


def cuts(size: int, *, step: int) -> Iterator[tuple[str, Change]]:
    """End early."""
    for at in range(0, size, step):
        yield f"cut at {at}", lambda b, at=at: b[:at]


def longer() -> Iterator[tuple[str, Change]]:
    yield "one more", lambda b: b + b"\0"
    yield "twice", lambda b: b + b


def payload_mutants(sample: bytes) -> Iterator[tuple[str, Change]]:
    """Drop, double and mislabel each payload, and set each length field; `sample` is the first type and the chain."""
    chain = chained(sample)
    for at in range(len(chain)):
        yield f"drop payload {at}", lambda b, at=at: joined([p for i, p in enumerate(chained(b)) if i != at])
        yield f"double payload {at}", lambda b, at=at: joined([q for i, p in enumerate(chained(b))
                                                               for q in ([p, p] if i == at else [p])])
        yield f"unknown payload {at}", lambda b, at=at: joined([(200 if i == at else t, p)
                                                                for i, (t, p) in enumerate(chained(b))])
        yield f"critical payload {at}", lambda b, at=at: joined([(t, p[:1] + b"\x80" + p[2:] if i == at else p)
                                                                 for i, (t, p) in enumerate(chained(b))])
    yield "reversed", lambda b: joined(chained(b)[::-1])
    for offset in length_fields(chain):
        for how in range(len(LENGTHS)):
            yield f"length at {offset} {how}", lambda b, offset=offset, how=how: _set_length(b, offset, how)


def chained(data: bytes) -> Chain:
    """Cut a chain of payloads, whose first type is the first byte, into its parts."""
    type_, data, found = data[0], data[1:], []
    while type_ and len(data) >= 4:
        size = int.from_bytes(data[2:4], "big")
        found.append((type_, data[:size]))
        type_, data = data[0], data[size:]
    return found


def joined(chain: Chain) -> bytes:
    """Put payloads together again, each with the type of the next."""
    types = [t for t, _ in chain] + [0]
    return bytes([types[0]]) + b"".join(bytes([types[i + 1]]) + body[1:] for i, (_, body) in enumerate(chain))


def length_fields(chain: Chain) -> Iterator[int]:
    """Return the offsets of lengths: of payloads, proposals, transforms, selectors, SPIs and counts."""
    offset = 1
    for type_, body in chain:
        yield offset + 2
        if type_ == PayloadType.SA:
            yield from (offset + 6, offset + 18 + body[10], offset + 14 + body[10])
        elif type_ in (PayloadType.TSI, PayloadType.TSR):
            yield from (offset + 3, offset + 10)
        elif type_ in (PayloadType.NOTIFY, PayloadType.DELETE):
            yield from (offset + 4, offset + 6)
        offset += len(body)


def _set_length(data: bytes, offset: int, how: int) -> bytes:
    if offset + 2 > len(data):
        return data
    value = int.from_bytes(data[offset:offset + 2], "big")
    new = LENGTHS[how] if how in (0, 1, 4) else (value + LENGTHS[how]) & 0xFFFF
    return data[:offset] + new.to_bytes(2, "big") + data[offset + 2:]


def sampled(mutants: Iterator[tuple[str, Change]], *, every: int, start: int = 0) -> Iterator[tuple[str, Change]]:
    """Take one in `every`."""
    return islice(mutants, start % every, None, every)


def _policy_b(fragment_bytes: int) -> Policy:
    made = tuple(child_policy("a", c, *reversed(NETS[c])) for c in ("lan", "voice"))
    ike = ike_policy(request_timeout_s=20, fragment_bytes=fragment_bytes)
    return policy(
        peer_policy("a", A, own="b.example", other="a.example", children=made, ike=ike),
        peer_policy("c", C, own="b.example", other="c.example", psk=C_PSK, ike=FOR_EVER,
                    children=(child_policy("c", "lan", "10.2.0.0/16", "10.77.0.0/16", lifetime_s=AGE_S),)))

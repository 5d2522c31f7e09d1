"""Every cause of the catalogue happens: each is provoked here, and says what its kind of failure has to say.

A cause that nothing provokes is either dead, or was never seen to explain anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.causes import CATALOGUE, Cause, Failure
from ipsecd.effects import Emit, Resolve
from ipsecd.errors import TokenError
from ipsecd.ike.consts import ExchangeType, NotifyType, ProtocolId
from ipsecd.ike.crypto.public_keys import key_bytes
from ipsecd.ike.wire.header import FLAG_RESPONSE
from ipsecd.ike.wire.message import build_clear
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload
from ipsecd.policy import Credential, Encapsulation, Mode, Pfs, Policy, TokenKey
from ipsecd.reports import ChildRequest, IkeFailed
from ipsecd.suites import parse_proposal
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate, with_auth
from tests.exchange.test_hybrid import CLASSICAL, HYBRID
from tests.exchange.test_hybrid import pair as hybrid_pair
from tests.exchange.test_redirect import World, told
from tests.exchange.test_refusals_explained import REFUSALS
from tests.exchange.test_transport_mode import a_side, b_side
from tests.support.exchange import A, B, Two, ike_policy, policy_a, policy_b
from tests.support.gateways import Pair
from tests.support.mallory import Mallory
from tests.support.nat import Datagram, Nat
from tests.support.sim import Host, sent_by
from tests.support.victim import Victim

# Why an end is no fault of anybody's; there is nothing to compare.
NO_EVIDENCE = frozenset({
    Cause.PEER_SILENT, Cause.PEER_DEAD, Cause.IKEV1_ONLY, Cause.INVALID_SYNTAX, Cause.RETRY_LOOP,
    Cause.AH_BEHIND_NAT, Cause.PEER_DELETED, Cause.REPLACED, Cause.OPERATOR, Cause.RELOADED, Cause.EXPIRED,
    Cause.NAME_UNRESOLVED, Cause.NO_ROUTE, Cause.REDIRECTED, Cause.LOCAL_ERROR, Cause.SHUTDOWN, Cause.TOKEN_FAILED})


def test_every_cause_is_provoked() -> None:
    assert set(PROVOKED) == set(Cause)


@pytest.mark.parametrize("cause", list(Cause))
def test_cause_happens_and_explains_itself(cause: Cause) -> None:
    found = [f for f in PROVOKED[cause]() if f.cause is cause]
    assert found, "it did not happen"
    for failure in found:
        assert failure.summary
        assert failure.hint == CATALOGUE[cause].hint
        if cause not in NO_EVIDENCE:
            assert failure.ours or failure.detail           # of ours, or what we saw
            assert failure.theirs or failure.notify


def failures(*hosts: Host) -> list[Failure]:
    """Return what events, reports and status of these hosts say went wrong, in that order."""
    found: list[Failure] = []
    for host in hosts:
        said = [e.event if isinstance(e, Emit) else e for e in host.log]
        found += [f for s in said if isinstance(f := getattr(s, "failure", None), Failure)]
    return found


def in_status(pair: Pair, host: Host) -> list[Failure]:
    peer = pair.peer(host)
    return [f.failure for f in (peer.last_failure, *peer.child_failures.values()) if f is not None]


def refused(name: str) -> Callable[[], list[Failure]]:
    def scenario() -> list[Failure]:
        case = REFUSALS[name]
        two = Two(case.a, case.b)
        two.initiate(two.a, case.a.peers[0].children[0].key.child)
        two.net.run(45)
        return failures(two.a, two.b)
    return scenario


def answered(*notifies: NotifyPayload) -> Callable[[], list[Failure]]:
    """A's IKE_SA_INIT is answered with this, however often it asks."""
    def scenario() -> list[Failure]:
        two = Two()
        two.b.alive = False

        def answer(datagram: Datagram) -> Datagram:
            if sent_by(two.a)(datagram):
                data = build_clear(spi_i=datagram.header.spi_i, spi_r=bytes(8), exchange=ExchangeType.IKE_SA_INIT,
                                   flags=FLAG_RESPONSE, message_id=0, payloads=notifies)
                two.net.inject(Datagram(datagram.destination, datagram.source, data))
            return datagram
        two.net.rewrite(answer)
        two.initiate(two.a)
        two.net.run(20)
        return failures(two.a)
    return scenario


def child_answered(type_: NotifyType) -> Callable[[], list[Failure]]:
    """The peer answers a request for another child with this error."""
    def scenario() -> list[Failure]:
        victim = Victim(policy_a("lan", "voice"))
        peer = Mallory(victim)
        lan, voice = (ChildRequest(c.key, 0, c.local, c.remote) for c in policy_a("lan", "voice").peers[0].children)
        peer.accept_login((lan,))
        handle = victim.endpoint.views()[0].handle
        victim.endpoint.create_child(handle, voice, victim.now)
        peer.inbox += [s.datagram for s in victim.drain()]
        header, _ = peer.take()
        peer.respond(header, NotifyPayload(type_))
        said = [e.event if isinstance(e, Emit) else e for e in victim.log]
        return [f for s in said if isinstance(f := getattr(s, "failure", None), Failure)]
    return scenario


def two_up(act: Callable[[Two], None], *, a: Policy | None = None, b: Policy | None = None) -> list[Failure]:
    two = Two(a, b)
    two.establish()
    act(two)
    return failures(two.a, two.b)


def pair_up(act: Callable[[Pair], None]) -> list[Failure]:
    pair = Pair()
    pair.start()
    act(pair)
    return failures(pair.a, pair.b) + in_status(pair, pair.a)


def ah_behind_nat() -> list[Failure]:
    ah = (parse_proposal("sha256", protocol=ProtocolId.AH),)
    two = Two(policy_a(proposals=ah), policy_b(proposals=ah), nat=Nat("192.0.2.1"))
    two.initiate(two.a)
    two.net.run(5)
    return failures(two.a, two.b)


def post_quantum() -> list[Failure]:
    two = hybrid_pair((HYBRID,), (CLASSICAL,))
    two.initiate(two.a)
    two.net.run(20)
    return failures(two.a)


def silent() -> list[Failure]:
    two = Two()
    two.b.alive = False
    two.initiate(two.a)
    two.net.run(20)
    return failures(two.a)


def version_one() -> list[Failure]:
    two = Two()
    two.b.alive = False
    two.initiate(two.a)
    two.net.run(1)
    first = two.net.sent[0]
    two.net.inject(Datagram(first.destination, first.source, first.data[:17] + b"\x10" + first.data[18:]))
    two.net.run(20)
    return failures(two.a)


def occupied() -> list[Failure]:
    two = Two(b=policy_b(ike=ike_policy(unique="reject")))
    two.establish()
    two.initiate(two.a)
    two.net.run(5)
    return failures(two.b)


def pfs_mismatch() -> list[Failure]:
    def rekey(two: Two) -> None:
        two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
        two.net.run(5)
    return two_up(rekey, a=policy_a(pfs=Pfs.REQUIRED), b=policy_b(pfs=Pfs.OFF))


def dead() -> list[Failure]:
    def cut(two: Two) -> None:
        two.net.drop(sent_by(two.b))
        two.net.run(120)
    return two_up(cut, a=policy_a(ike=ike_policy(dpd_s=10)))


def expired() -> list[Failure]:
    return two_up(lambda two: two.net.run(400), a=policy_a(lifetime_s=100.0, pfs=Pfs.REQUIRED),
                  b=policy_b(lifetime_s=3000.0, pfs=Pfs.OFF))


def child_not_found() -> list[Failure]:
    victim = Victim(policy_a())
    peer = Mallory(victim)
    lan = policy_a().peers[0].children[0]
    peer.accept_login((ChildRequest(lan.key, 0, lan.local, lan.remote),))
    (spi,) = victim.installed
    victim.endpoint.rekey_child(spi, victim.now)
    peer.inbox += [s.datagram for s in victim.drain()]
    header, _ = peer.take()
    peer.respond(header, NotifyPayload(NotifyType.CHILD_SA_NOT_FOUND))
    said = [e.event if isinstance(e, Emit) else e for e in victim.log]
    return [f for s in said if isinstance(f := getattr(s, "failure", None), Failure)]


def deleted_by_peer() -> list[Failure]:
    victim = Victim(policy_a())
    peer = Mallory(victim)
    peer.login()
    peer.request(ExchangeType.INFORMATIONAL, DeletePayload(ProtocolId.IKE, ()))
    said = [e.event if isinstance(e, Emit) else e for e in victim.log]
    return [f for s in said if isinstance(f := getattr(s, "failure", None), Failure)]


def replaced() -> list[Failure]:
    def again(two: Two) -> None:
        two.initiate(two.a)
        two.net.run(20)
    return two_up(again)


def operator() -> list[Failure]:
    def down(pair: Pair) -> None:
        pair.gateway(pair.a).down("b", None, pair.net.now)
        pair.a.collect()
        pair.net.run(2)
    return pair_up(down)


def reloaded() -> list[Failure]:
    def reload(pair: Pair) -> None:
        pair.reload(pair.a, replace(policy_a(), peers=(replace(policy_a().peers[0], name="other"),)))
        pair.net.run(2)
    return pair_up(reload)


def stopped() -> list[Failure]:
    def stop(pair: Pair) -> None:
        pair.gateway(pair.a).shutdown(pair.net.now)
        pair.a.collect()
        pair.net.run(2)
    two = Pair()
    two.start()
    stop(two)
    return failures(two.a)


def unreached(address: str) -> Callable[[], list[Failure]]:
    """The lookup of the peer's address, or the route to it, gives nothing."""
    def scenario() -> list[Failure]:
        policy = replace(policy_a(), peers=(replace(policy_a().peers[0], addresses=(address,)),))
        pair = Pair(policy)
        gateway = pair.gateway(pair.a)
        gateway.start(pair.net.now)
        assert any(isinstance(e, Resolve) for e in gateway.take_effects())
        gateway.resolved("b", (), pair.net.now)
        return in_status(pair, pair.a)
    return scenario


def worker_failed() -> list[Failure]:
    two = Two()
    two.a.impair("work", "drop")
    two.initiate(two.a)
    two.net.run(5)
    return failures(two.a)


def token_failed() -> list[Failure]:
    """The token was taken out."""
    def gone(kind: str, hash_: str, octets: bytes) -> bytes:
        raise TokenError("no such token")
    own = by_certificate(GW_A)
    assert isinstance(own.local, Credential)
    key = TokenKey("pkcs11:object=own?module-path=/x.so", key_bytes(GW_A.key.public_key()), frozenset({"ecdsa"}), gone)
    two = Two(with_auth(policy_a(), replace(own, local=replace(own.local, private_key=key))),
              with_auth(policy_b(), by_certificate(GW_B)))
    two.initiate(two.a)
    two.net.run(5)
    return failures(two.a)


def sent_on(*, to: str, allowed: bool) -> Callable[[], list[Failure]]:
    def scenario() -> list[Failure]:
        world = World(policy_a(ike=ike_policy(redirect=allowed)))
        world.start()
        world.say(world.b, told(to))
        world.net.run(5)
        return failures(world.a) + in_status(world, world.a)
    return scenario


def no_nat_traversal() -> list[Failure]:
    """The responder says nothing of NATs, and our entry takes ESP in UDP only."""
    entry = policy_a().peers[0]
    victim = Victim(replace(policy_a(), peers=(replace(entry, encapsulation=Encapsulation.UDP),)))
    peer, child = Mallory(victim, port=500, nat_traversal=False), entry.children[0]
    victim.endpoint.initiate("b", peer.path, (ChildRequest(child.key, 0, child.local, child.remote),), victim.now)
    peer.send(peer.respond_init(victim.drain()[-1].datagram))
    victim.wait(20)
    return [report.failure for report in victim.log if isinstance(report, IkeFailed)]


def between_hosts(*, local: str, mode: Mode) -> Callable[[], list[Failure]]:
    """A wants transport mode from this address of its own; B's entry is of that mode, or not."""
    def scenario() -> list[Failure]:
        two = Two(a_side(local=local), b_side(mode=mode))
        two.initiate(two.a)
        two.net.run(2)
        return failures(two.a, two.b)
    return scenario


PROVOKED: dict[Cause, Callable[[], list[Failure]]] = {
    Cause.MODE_MISMATCH: between_hosts(local=A, mode=Mode.TUNNEL),
    Cause.TRANSPORT_ADDRESSES: between_hosts(local="192.0.2.77", mode=Mode.TRANSPORT),
    Cause.NO_PROPOSAL: refused("ike proposals"),
    Cause.NO_CHILD_PROPOSAL: refused("esp proposals"),
    Cause.POST_QUANTUM: post_quantum,
    Cause.AH_BEHIND_NAT: ah_behind_nat,
    Cause.KE_REFUSED: answered(NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\x0e")),
    Cause.AUTHENTICATION_FAILED: refused("shared key"),
    Cause.PEER_REFUSED_AUTH: refused("shared key"),
    Cause.WRONG_IDENTITY: refused("responder's identity"),
    Cause.UNKNOWN_IDENTITY: refused("unknown identity"),
    Cause.CERTIFICATE_REFUSED: refused("authority"),
    Cause.AUTH_METHOD: refused("method"),
    Cause.PPK_MISMATCH: refused("ppk required by the initiator"),
    Cause.TOKEN_FAILED: token_failed,
    Cause.OCCUPIED: occupied,
    Cause.TS_UNACCEPTABLE: refused("selectors"),
    Cause.PFS_MISMATCH: pfs_mismatch,
    Cause.NO_NAT_TRAVERSAL: no_nat_traversal,
    Cause.PEER_SILENT: silent,
    Cause.PEER_DEAD: dead,
    Cause.IKEV1_ONLY: version_one,
    Cause.PEER_VERSION: answered(NotifyPayload(NotifyType.INVALID_MAJOR_VERSION)),
    Cause.INVALID_SYNTAX: answered(NotifyPayload(NotifyType.INVALID_SYNTAX)),
    Cause.RETRY_LOOP: answered(NotifyPayload(NotifyType.COOKIE, b"again")),
    Cause.NO_ADDITIONAL_SAS: child_answered(NotifyType.NO_ADDITIONAL_SAS),
    Cause.TEMPORARY_FAILURE: child_answered(NotifyType.TEMPORARY_FAILURE),
    Cause.CHILD_NOT_FOUND: child_not_found,
    Cause.PEER_DELETED: deleted_by_peer,
    Cause.REPLACED: replaced,
    Cause.OPERATOR: operator,
    Cause.RELOADED: reloaded,
    Cause.EXPIRED: expired,
    Cause.NAME_UNRESOLVED: unreached("gw.example"),
    Cause.NO_ROUTE: unreached(B),
    Cause.REDIRECTED: sent_on(to="198.51.100.3", allowed=True),
    Cause.REDIRECT_REFUSED: sent_on(to="198.51.100.3", allowed=False),
    Cause.REDIRECT_LOOP: sent_on(to=B, allowed=True),
    Cause.PEER_ERROR: answered(NotifyPayload(9999)),
    Cause.LOCAL_ERROR: worker_failed,
    Cause.SHUTDOWN: stopped,
}

"""Redirect (RFC 5685): followed where the entry allows it, to a gateway that proves to be the same peer, not for ever.

A calls B, which sends it on to C; both have B's identity.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.events import Hint, IkeAttemptFailed, IkeSaDown, IkeSaUp, PeerRedirected
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.header import FLAG_RESPONSE
from ipsecd.ike.wire.message import ClearMessage, Payload, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import NoncePayload
from ipsecd.policy import Policy
from ipsecd.reports import ChildRefused, ChildRequest, Redirect
from ipsecd.secret import Secret
from tests.support.exchange import A, B, ike_policy, policy_a, policy_b
from tests.support.gateways import Pair
from tests.support.mallory import Mallory
from tests.support.nat import Datagram
from tests.support.sim import Host, sent_by
from tests.support.victim import Victim

C = "198.51.100.3"
ANY = ike_policy(redirect=True)


def told(gateway: str, nonce: bytes = b"") -> NotifyPayload:
    """Return REDIRECT to an address or name."""
    try:
        kind, data = {4: 1, 6: 2}[ip_address(gateway).version], ip_address(gateway).packed
    except ValueError:
        kind, data = 3, gateway.encode()
    return NotifyPayload(NotifyType.REDIRECT, bytes([kind, len(data)]) + data + nonce)


class Say(Task):
    """A gateway's request of any content."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, *payloads: Payload) -> None:
        super().__init__(session)
        self._payloads = payloads

    def build(self, now: float) -> Steps[Payloads | None]:
        yield from ()
        return self._payloads

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        yield from ()
        assert not response.payloads                # RFC 5685 5: an empty message acknowledges it

    def failed(self, failure: Failure, now: float) -> None:
        raise AssertionError(failure)


class World(Pair):
    """A and B, and C, which is B's other gateway."""

    def __init__(self, a: Policy | None = None, *, c: Policy | None = None) -> None:
        super().__init__(a or policy_a(ike=ANY), replace(policy_b(), peers=policy_b(address=None).peers))
        self.c = self._add("c", C, c or policy_b(address=None))
        self.requests: list[ClearMessage] = []      # IKE_SA_INIT of A

    def start(self, seconds: float = 5.0) -> None:
        for host in (self.a, self.b, self.c):
            self.gateway(host).start(self.net.now)
        self.net.run(seconds)

    def send_on(self, where: dict[str, str], *, nonce: bytes | None = None, silent: bool = True) -> None:
        """Let the gateways at the addresses in `where` answer IKE_SA_INIT with a redirect, themselves `silent`."""
        def answer(datagram: Datagram) -> Datagram | None:
            message = split(datagram.data)
            if not isinstance(message, ClearMessage) or message.header.is_response:
                return datagram
            self.requests.append(message)
            to = where.get(datagram.destination.address)
            if to is None:
                return datagram
            ni = next(p.data for p in message.payloads if isinstance(p, NoncePayload))
            data = build_clear(spi_i=message.header.spi_i, spi_r=bytes(8), exchange=ExchangeType.IKE_SA_INIT,
                               flags=FLAG_RESPONSE, message_id=0, payloads=[told(to, ni if nonce is None else nonce)])
            self.net.inject(Datagram(datagram.destination, datagram.source, data))
            return None if silent else datagram
        self.net.rewrite(answer)

    def say(self, host: Host, *payloads: Payload) -> None:
        """Send a request on the IKE SA of a gateway that is up."""
        endpoint = self.gateway(host).endpoint
        (sa,) = endpoint._table.current.values()
        sa.session.enqueue(Say(sa.session, *payloads))
        endpoint._poke(sa, self.net.now)
        host.collect()

    def at(self) -> list[str]:
        """Return the addresses of the gateways that A has IKE SAs with."""
        return [v.path.remote.address for v in self.a.established()]


def test_peer_that_redirects_in_ike_sa_init_is_reached_at_the_other_gateway() -> None:
    # HDR, SAi1, KEi, Ni, N(REDIRECT_SUPPORTED) --> B
    # B <-- HDR(A,0), N(REDIRECT, C, Ni)
    # HDR, SAi1, KEi, Ni, N(REDIRECTED_FROM, B) --> C
    world = World()
    world.send_on({B: C})
    world.start()
    assert world.at() == [C]
    first, last = world.requests[0], world.requests[-1]
    assert find(first.payloads, NotifyType.REDIRECT_SUPPORTED)
    assert not find(last.payloads, NotifyType.REDIRECT_SUPPORTED)
    origin = find(last.payloads, NotifyType.REDIRECTED_FROM)
    assert origin is not None
    assert origin.data == bytes([1, 4]) + ip_address(B).packed
    event = world.a.last_event(PeerRedirected)
    assert (event.peer, event.gateway, event.exchange) == ("b", C, "IKE_SA_INIT")
    assert world.peer(world.a).redirected == C
    assert not world.a.events(IkeAttemptFailed)


def test_gateway_that_is_sent_us_by_name_is_looked_up() -> None:
    world = World(policy_a(ike=ike_policy(redirect=True, redirect_to=("gw2.example",))))
    world.a.endpoint.names["gw2.example"] = C  # type: ignore[attr-defined]
    world.send_on({B: "GW2.example."})
    world.start(1)
    assert world.peer(world.a).redirected == ""         # listening to B goes on for a moment
    world.net.run(2)
    assert world.at() == [C]
    assert world.peer(world.a).redirected == "gw2.example"


@pytest.mark.parametrize(("ike", "cause"), [
    (ike_policy(), Cause.REDIRECT_REFUSED), (ike_policy(redirect=True, redirect_to=(B,)), Cause.REDIRECT_REFUSED)])
def test_redirect_that_the_entry_does_not_allow_is_not_followed_and_is_explained(ike: object, cause: Cause) -> None:
    world = World(policy_a(ike=ike))  # type: ignore[arg-type]
    world.send_on({B: C})
    world.start()
    assert world.at() == []
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert (failed.failure.cause, failed.failure.theirs, failed.failure.notify) == (cause, C, "REDIRECT")
    assert "peers.P.ike.redirect" in failed.failure.hint
    assert not world.a.events(PeerRedirected)
    assert bool(find(world.requests[0].payloads, NotifyType.REDIRECT_SUPPORTED)) is world_allows(world)


def world_allows(world: World) -> bool:
    return world.gateway(world.a).policy.peers[0].ike.redirect


@pytest.mark.parametrize("nonce", [b"", b"n" * 32])
def test_redirect_without_the_nonce_of_the_request_is_no_redirect(nonce: bytes) -> None:
    # RFC 5685 3: who did not see the request cannot send us anywhere; the genuine answer is waited for.
    world = World()
    world.send_on({B: C}, nonce=nonce, silent=False)
    world.start()
    assert world.at() == [B]
    assert not world.a.events(PeerRedirected)


def test_genuine_response_wins_over_a_forged_redirect() -> None:
    # Whoever sees our request can forge one, nonce and all; he must also keep the answer of the gateway from us.
    world = World()
    world.send_on({B: C}, silent=False)
    world.start()
    assert world.at() == [B]
    assert world.peer(world.a).redirected == ""


@pytest.mark.parametrize("gateway", ["127.0.0.1", "::1", "224.0.0.1", "0.0.0.0", "255.255.255.255"])
def test_redirect_to_what_is_no_unicast_address_is_refused(gateway: str) -> None:
    world = World()
    world.send_on({B: gateway})
    world.start()
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert failed.failure.cause is Cause.REDIRECT_REFUSED


def test_other_gateway_must_prove_to_be_the_same_peer() -> None:
    world = World(c=policy_b(address=None, psk=Secret(b"another key of more than 16 bytes")))
    world.send_on({B: C})
    world.start(4)
    assert world.at() == []
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert failed.failure.cause is Cause.PEER_REFUSED_AUTH
    world.net._rewrite.clear()                      # B serves again
    world.net.run(10)
    assert world.at() == [B]


def test_gateways_that_send_us_around_are_given_up_after_five_redirects() -> None:
    # RFC 5685 8: MAX_REDIRECTS in REDIRECT_LOOP_DETECT_PERIOD.
    world = World()
    world.send_on({B: C, C: B})
    world.start(100)
    assert len(world.a.events(PeerRedirected)) >= 5
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert failed.failure.cause is Cause.REDIRECT_LOOP
    followed = [m for m in world.requests if find(m.payloads, NotifyType.REDIRECTED_FROM)]
    assert len({m.header.spi_i for m in followed}) == 5
    world.net._rewrite.clear()
    world.net.run(70)
    assert world.at() == [B]


def test_dead_other_gateway_leads_back_to_the_peers_own_address() -> None:
    world = World()
    world.send_on({B: C})
    world.net.drop(lambda d: C in (d.source.address, d.destination.address))
    world.start(5)
    world.net._rewrite.clear()
    world.net.run(20)                               # the attempt there ends after 15 s
    assert world.at() == [B]
    assert world.peer(world.a).redirected == ""


def test_redirect_on_an_ike_sa_that_is_up_is_make_before_break() -> None:
    # B --> HDR, SK {N(REDIRECT, C)};  A --> HDR, SK {};  then all anew with C, then A deletes at B (RFC 5685 5).
    world = World()
    world.start()
    assert world.at() == [B]
    world.say(world.b, told(C))
    for _ in range(400):
        world.net.run(0.01)
        assert world.a.outbound                     # the child has a pair that sends at every moment
    assert world.at() == [C]
    world.net.run(5)
    assert not world.b.established()
    assert world.b.last_event(IkeSaDown).failure.cause is Cause.PEER_DELETED
    assert [e.failure.cause for e in world.a.events(IkeSaDown)] == [Cause.REDIRECTED]
    assert world.a.last_event(PeerRedirected).exchange == "INFORMATIONAL"
    assert len(world.a.events(IkeSaUp)) == 2


def test_mobike_keeps_a_redirected_ike_sa_at_its_gateway() -> None:
    world = World(policy_a(ike=ike_policy(redirect=True, mobike=True, lifetime_s=300)),
                  c=policy_b(address=None, ike=ike_policy(mobike=True)))
    world.send_on({B: C})
    world.start()
    assert world.at() == [C]
    there = sent_by(world.a, lambda d: d.destination.address == B)
    before = len([d for d in world.net.sent if there(d)])
    world.gateway(world.a).host_changed(frozenset((A,)), world.net.now)
    world.net.run(700)                              # over two rekeys
    assert world.at() == [C]
    assert len([d for d in world.net.sent if there(d)]) == before


def test_end_of_the_other_gateway_leads_back() -> None:
    world = World()
    world.send_on({B: C})
    world.start()
    world.net._rewrite.clear()
    world.gateway(world.c).shutdown(world.net.now)
    world.c.collect()
    world.net.run(10)
    assert world.at() == [B]


def test_redirect_on_an_ike_sa_that_the_entry_does_not_allow_changes_nothing() -> None:
    world = World(policy_a())
    world.start()
    world.say(world.b, told(C))
    world.net.run(5)
    assert world.at() == [B]
    assert world.a.last_event(Hint).failure.cause is Cause.REDIRECT_REFUSED
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert failed.failure.cause is Cause.REDIRECT_REFUSED


def test_redirect_to_the_gateway_that_says_so_is_a_loop() -> None:
    world = World()
    world.start()
    world.say(world.b, told(B))
    world.net.run(5)
    assert world.at() == [B]
    assert world.a.last_event(Hint).failure.cause is Cause.REDIRECT_LOOP


def test_sixth_redirect_of_an_ike_sa_that_is_up_leaves_it_up() -> None:
    world = World()
    world.start()
    for _ in range(6):
        serving = world.b if world.at() == [B] else world.c
        world.say(serving, told(C if serving is world.b else B))
        world.net.run(10)
    assert world.at() == [C]                        # five moves, there and back
    failed = world.peer(world.a).last_failure
    assert failed is not None
    assert failed.failure.cause is Cause.REDIRECT_LOOP
    world.net.run(300)
    world.say(world.c, told(B))
    world.net.run(10)
    assert world.at() == [B]


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\4\1\2\3", b"\1\3\1\2\3", b"\2\4\1\2\3\4", b"\3\0", b"\3\3a b",
                                  b"\3\4\xff\xff\xff\xff", b"\4\4\1\2\3\4", b"\3\x10../../etc/passwd"])
def test_malformed_redirect_leads_nowhere(data: bytes) -> None:
    world = World()
    world.start()
    world.say(world.b, NotifyPayload(NotifyType.REDIRECT, data))
    world.net.run(5)
    assert world.at() == [B]
    assert world.a.last_event(Hint).failure.cause is Cause.INVALID_SYNTAX


# In IKE_AUTH (RFC 5685 6): B is played, for it has to answer what no gateway of ours does.

def auth_answered(policy: Policy, *extra: Payload) -> Victim:
    """Let A make an IKE SA with a gateway that proves itself and sends it on in place of the child."""
    victim = Victim(policy)
    gateway = Mallory(victim)
    (child,) = policy.peers[0].children
    header, asked = gateway.accept_init((ChildRequest(child.key, 0, child.local, child.remote),))
    gateway.respond(header, *gateway.respond_auth(asked)[:2], *extra)
    return victim


def test_redirect_in_ike_auth_counts_once_the_gateway_has_proved_itself() -> None:
    victim = auth_answered(policy_a(ike=ANY), told(C))
    assert [(r.peer, r.gateway) for r in victim.log if isinstance(r, Redirect)] == [("b", C)]
    (event,) = victim.events(PeerRedirected)
    assert isinstance(event, PeerRedirected)
    assert event.exchange == "IKE_AUTH"
    assert not [r for r in victim.log if isinstance(r, ChildRefused)]


def test_redirect_in_ike_auth_that_the_entry_does_not_allow_explains_the_missing_child() -> None:
    victim = auth_answered(policy_a(), told(C))
    (refused,) = [r for r in victim.log if isinstance(r, ChildRefused)]
    assert refused.failure.cause is Cause.REDIRECT_REFUSED
    assert not [r for r in victim.log if isinstance(r, Redirect)]


def test_redirect_in_ike_auth_of_a_gateway_without_proof_is_not_looked_at() -> None:
    victim = Victim(policy_a(ike=ANY))
    gateway = Mallory(victim, psk=Secret(b"another key of more than 16 bytes"))
    (child,) = policy_a().peers[0].children
    header, asked = gateway.accept_init((ChildRequest(child.key, 0, child.local, child.remote),))
    gateway.respond(header, *gateway.respond_auth(asked)[:2], told(C))
    assert not victim.events(PeerRedirected)
    assert not victim.established()



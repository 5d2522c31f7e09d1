"""What whoever is not authenticated can cause: a drop, a stateless answer, or one bounded half-open IKE SA."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.events import IkeSaUp, PathChanged
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType, ProtocolId
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.message import Payload, build_payloads
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload, KePayload
from ipsecd.reports import ChildRequest, IkeUp
from ipsecd.sa import Endpoint, Path
from ipsecd.secret import Secret
from tests.support.exchange import IKE, PSK, policy_a
from tests.support.mallory import Mallory, child_payloads, clear, rekey_notify
from tests.support.victim import Victim, reachable

EXCHANGES = (0, 33, 34, 35, 36, 37, 38, 39, 40, 43, 44, 240, 255)
CONTENTS: dict[str, tuple[Payload, ...]] = {
    "nothing": (),
    "delete IKE": (DeletePayload(ProtocolId.IKE),),
    "delete ESP": (DeletePayload(ProtocolId.ESP, (b"\xc0\0\0\1",)),),
    "new child": child_payloads(),
    "child rekey": (rekey_notify(b"\xc0\0\0\1"), *child_payloads()),
    "refusal": (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),),
    "contact": (NotifyPayload(NotifyType.INITIAL_CONTACT),),
}
FORMS = ("clear", "SK", "SKF")


def test_half_open_responder_takes_no_exchange_but_ike_auth() -> None:
    # Rows 1, 2, AU-20: every exchange, clear, in SK and in SKF, as request and as response, well encrypted.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    before = victim.events_seen
    for datagram in everything(mallory, own_role=True):
        assert not sealed(mallory.send(datagram))
        assert victim.endpoint.half_open == 1
    assert victim.events_seen == before
    assert not victim.established()
    victim.check()
    answer = mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads(), message_id=1)
    assert answer is not None, "the genuine request does not get through any more"
    assert victim.established() == ["b"]


def test_half_open_initiator_takes_no_request_at_all() -> None:
    # Rows 1, 2, AU-20 in the other role: we wait for the IKE_AUTH response.
    victim = Victim(policy_a())
    mallory, asked = answered_init(victim)
    before = victim.events_seen
    for datagram in everything(mallory, own_role=True, responses=False):
        assert not sealed(mallory.send(datagram))
    assert victim.events_seen == before
    assert [v.state for v in victim.endpoint.views()] == ["AuthSent"]
    header, payloads = asked
    mallory.respond(header, *mallory.respond_auth(payloads))
    assert victim.established() == ["b"]
    victim.check()


def test_refused_initiator_gets_nothing_on_what_is_left_of_its_ike_sa() -> None:
    # Row 1: the IKE SA stays a while for repetitions of the request; nothing can be made on it.
    victim = Victim(policy_a())
    mallory = Mallory(victim, psk=Secret(b"wrong" * 5))
    answer = mallory.login()
    assert answer is not None
    assert [p.type for p in answer if isinstance(p, NotifyPayload)] == [NotifyType.AUTHENTICATION_FAILED]
    assert mallory.rekey_ike() is None
    for content in ("new child", "child rekey", "contact", "nothing"):
        mallory.request(ExchangeType.CREATE_CHILD_SA, *CONTENTS[content])
        mallory.request(ExchangeType.INFORMATIONAL, *CONTENTS[content])
    mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads())
    mallory.request(ExchangeType.INFORMATIONAL, DeletePayload(ProtocolId.IKE))
    assert victim.endpoint.half_open == 1, "a Delete frees the place, for the next key exchange"
    assert not victim.installed
    assert not victim.events(IkeSaUp)
    assert not [e for e in victim.log if isinstance(e, IkeUp)]
    victim.wait(31)
    assert not victim.endpoint.views()
    assert victim.endpoint.half_open == 0
    victim.check()


@pytest.mark.parametrize("missing", range(5))
def test_ike_auth_without_one_of_its_payloads_leaves_nothing(missing: int) -> None:
    # Rows 3, 4, AU-17: IDi, AUTH, SA, TSi, TSr; each once left out, each once doubled.
    for change in ("drop", "double"):
        victim = Victim(policy_a(), seed=change)
        mallory = Mallory(victim)
        assert mallory.init()
        whole = mallory.auth_payloads()
        sent = (*whole[:missing], *((whole[missing],) * (2 if change == "double" else 0)), *whole[missing + 1:])
        mallory.request(ExchangeType.IKE_AUTH, *sent)
        assert not victim.installed
        assert not victim.established()
        victim.wait(31)
        assert not victim.endpoint.views()
        victim.check()


def test_junk_ike_auth_neither_ends_nor_prolongs_a_half_open_ike_sa() -> None:
    # Rows 75, 76, AU-18: junk below the limit, the genuine message after it establishes; no more key exchanges.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    for _ in range(7):
        mallory.send(junk(mallory))
    assert victim.jobs == 1
    assert mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads()) is not None
    assert victim.established() == ["b"]
    victim.check()


def test_half_open_ike_sa_ends_after_its_time_whatever_is_said() -> None:
    # Row 75: the limit is absolute; repetitions and fragments keep nothing open.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    for second in range(30):
        mallory.send(mallory.init_request)
        mallory.send(mallory.seal(PayloadType.IDI if second == 0 else 0, bytes(40), exchange=35, message_id=1,
                                  outer=PayloadType.SKF, fragment=(second % 8 + 1).to_bytes(2, "big") + b"\0\x09"))
        assert victim.endpoint.half_open == 1 if second < 29 else True
        victim.wait(1)
    victim.wait(0.5)
    assert victim.endpoint.half_open == 0
    assert not victim.endpoint.views()
    victim.check()


@pytest.mark.parametrize("role", [0, FLAG_INITIATOR])
@pytest.mark.parametrize("response", [0, FLAG_RESPONSE])
def test_clear_messages_change_nothing_on_an_established_ike_sa(role: int, response: int) -> None:
    # Row 9: Delete, INITIAL_CONTACT and every error in the clear; at most one liveness check comes of them (row 80).
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    crypto = mallory.crypto
    assert crypto is not None
    views, installed = len(victim.endpoint.views()), set(victim.installed)
    notifies = [NotifyPayload(t, b"\xc0\0\0\1") for t in range(50)] + [NotifyPayload(NotifyType.INITIAL_CONTACT)]
    sent: list[bytes] = []
    for exchange in EXCHANGES:
        for payload in (DeletePayload(ProtocolId.IKE), DeletePayload(ProtocolId.ESP, (b"\xc0\0\0\1",)), *notifies):
            datagram = clear((payload,), spi_i=crypto.spi_i, spi_r=crypto.spi_r, flags=role | response,
                             exchange=exchange, message_id=2)
            sent += mallory.send(datagram)
    assert len(sealed(sent)) <= 1
    assert (len(victim.endpoint.views()), victim.installed) == (views, installed)
    victim.check()


def test_peer_address_moves_for_authentic_and_new_messages_only() -> None:
    # Rows 10, 86, NT-03: bad ICV, a replayed request, and a clear message from a third address.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    request = mallory.seal(0, b"", exchange=ExchangeType.INFORMATIONAL, message_id=2)
    assert mallory.send(request)
    path = victim.endpoint.views()[0].path
    elsewhere = Path(path.local, Endpoint("198.51.100.99", 4500))
    for datagram in (request, junk(mallory, message_id=3), junk(mallory, message_id=3, response=True),
                     clear((), spi_i=b"i" * 8, spi_r=b"r" * 8, exchange=37, message_id=3)):
        victim.feed(datagram, elsewhere)
    assert victim.endpoint.views()[0].path == path
    assert not victim.events(PathChanged)
    victim.check()


def test_reflected_messages_establish_nothing() -> None:
    # Row 11, AU-15: everything that the victim sends comes back to it.
    victim = Victim(policy_a())
    mallory, (header, asked) = answered_init(victim)
    own = child_request(victim)
    mirrored: list[bytes] = []
    victim.endpoint.initiate("b", Path(Endpoint(victim.address, 500), Endpoint(mallory.address, 500)), (own,),
                             victim.now)
    mirrored += [s.datagram for s in victim.drain()]
    for _ in range(4):
        answers = [answer for datagram in mirrored for answer in mallory.send(datagram)]
        mirrored = answers + mirrored[:4]
    # Our own IKE_SA_INIT is answered, and the mirror gets as far as IKE_AUTH: there our own identity is refused.
    assert not victim.established()
    mallory.respond(header, *mallory.respond_auth(asked))
    assert victim.established() == ["b"]
    victim.wait(31)
    assert victim.endpoint.half_open == 0
    assert victim.established() == ["b"]
    mallory.inbox.clear()
    victim.endpoint.check_liveness(victim.endpoint.views()[-1].handle, victim.now)
    for datagram in [s.datagram for s in victim.drain()]:
        assert not sealed(mallory.send(datagram))
    victim.check()


def test_peer_that_proves_our_own_identity_is_refused() -> None:
    # Rows 11, AU-15: PSK and messages are right, but the identity is the victim's own.
    victim = Victim(policy_a())
    mallory, (header, asked) = answered_init(victim)
    mallory.respond(header, *mallory.respond_auth(asked, own=victim.endpoint._table.policy.peers[0].local_identity))
    assert not victim.established()
    assert not victim.installed
    victim.check()


def test_refusals_of_authentication_do_not_tell_why() -> None:
    # Row 126, AU-02: unknown identity and wrong PSK look the same, to the byte count.
    sizes = set()
    for own, psk in (("b.example", Secret(b"another key of some length, yes")), ("x.example", PSK)):
        victim = Victim(policy_a())
        mallory = Mallory(victim, psk=psk)
        assert mallory.init()
        id_i, *rest = mallory.auth_payloads()
        changed = type(id_i)(id_i.payload_type, id_i.id_type, own.encode())    # type: ignore[union-attr,call-arg]
        type_, body = build_payloads((changed, *rest))
        answers = mallory.send(mallory.seal(type_, body, exchange=35, message_id=1))
        sizes.add(tuple(len(a) for a in answers))
        opened = mallory.open(answers[0])
        assert opened is not None
        assert opened[1] == (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),)
    assert len(sizes) == 1


def test_half_open_ike_sa_that_got_too_much_junk_keeps_its_place_and_opens_nothing_more() -> None:
    # Row 76: were its place free at once, junk would buy key exchanges without a cookie and without a limit.
    victim = Victim(policy_a())
    for number in range(60):
        mallory = Mallory(victim, seed=number)
        if mallory.init():
            for _ in range(9):
                assert mallory.send(junk(mallory)) == []
    assert victim.endpoint.half_open == victim.jobs <= 64
    assert victim.dropped[DropReason.IKE_BAD_ICV] <= 8 * victim.jobs
    assert mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads(), message_id=1) is None
    assert victim.endpoint.cookies_on
    victim.wait(31)
    assert victim.endpoint.half_open == 0
    victim.check()


def test_what_is_remembered_of_ended_ike_sas_does_not_hold_them() -> None:
    # Rows 61, 122: a late copy of IKE_SA_INIT is recognised for a while without the keys that it led to.
    victim = Victim(policy_a(), keep_log=False)
    for number in range(40):
        mallory = Mallory(victim, seed=number)
        assert mallory.login(child=False) is not None
        mallory.request(ExchangeType.INFORMATIONAL, DeletePayload(ProtocolId.IKE))
        assert mallory.send(mallory.init_request) == [], "a late copy is answered or begins an IKE SA"
    assert victim.endpoint.half_open == 0
    assert victim.endpoint.views() == ()
    assert [o for o in reachable(victim.endpoint) if isinstance(o, IkeSa)] == []
    victim.check()


def test_bad_public_values_cost_one_key_exchange_before_cookies_are_demanded() -> None:
    # Rows 39, 45, 72: a low-order point leaves no half-open IKE SA, so it must bring on the cookies by itself.
    victim = Victim(policy_a())
    for number in range(50):
        mallory = Mallory(victim, seed=number, address=f"198.51.100.{number}" if number % 2 else "203.0.113.2")
        mallory.ni = bytes([number]) * 32
        ke = generate(31)
        sent = tuple(KePayload(31, bytes(32)) if isinstance(p, KePayload) else p
                     for p in mallory.init_payloads(ke, spi_i=bytes([number + 1]) * 8))
        mallory.send(clear(sent, spi_i=bytes([number + 1]) * 8))
    assert victim.jobs <= 2
    assert victim.endpoint.half_open == 0
    victim.check()


def everything(mallory: Mallory, *, own_role: bool, responses: bool = True) -> list[bytes]:
    """Return every exchange and content in each form; all but what IKE_AUTH may be."""
    crypto = mallory.crypto
    assert crypto is not None
    role = FLAG_INITIATOR if crypto.original_initiator else 0
    made = []
    for exchange in EXCHANGES:
        for payloads in CONTENTS.values():
            first, body = build_payloads(payloads)
            for form in FORMS:
                for response in (False, True) if responses else (False,):
                    if form != "clear" and exchange == ExchangeType.IKE_AUTH:
                        continue
                    for message_id in (0, 1, 2):
                        if form == "clear":
                            made.append(clear(payloads, spi_i=crypto.spi_i, spi_r=crypto.spi_r, exchange=exchange,
                                              flags=role | (FLAG_RESPONSE if response else 0), message_id=message_id))
                            continue
                        outer = PayloadType.SK if form == "SK" else PayloadType.SKF
                        if form == "SKF" and not first:
                            continue
                        made.append(mallory.seal(first, body, exchange=exchange, message_id=message_id, outer=outer,
                                                 response=response, fragment=b"\0\1\0\1" if form == "SKF" else b""))
    return made


def answered_init(victim: Victim) -> tuple[Mallory, tuple[object, tuple[Payload, ...]]]:
    """Return an impostor whose IKE_SA_INIT response the victim took, and the IKE_AUTH request that came."""
    mallory = Mallory(victim)
    path = Path(Endpoint(victim.address, 500), Endpoint(mallory.address, 500))
    victim.endpoint.initiate("b", path, (child_request(victim),), victim.now)
    mallory.send(mallory.respond_init(victim.drain()[-1].datagram))
    return mallory, mallory.take()


def child_request(victim: Victim) -> ChildRequest:
    child = victim.endpoint._table.policy.peers[0].children[0]
    return ChildRequest(child.key, 0, child.local, child.remote)


def junk(mallory: Mallory, *, message_id: int = 1, response: bool = False) -> bytes:
    """Return a message whose ICV is wrong."""
    exchange = ExchangeType.IKE_AUTH if message_id == 1 else ExchangeType.INFORMATIONAL
    good = mallory.seal(0, b"", exchange=exchange, message_id=message_id, response=response)
    return good[:-1] + bytes([good[-1] ^ 1])


def sealed(datagrams: list[bytes]) -> list[bytes]:
    """Return the protected ones."""
    return [d for d in datagrams if d[16] in (PayloadType.SK, PayloadType.SKF)]


assert IKE.of_type(4)[0].id == 31, "these tests count on X25519 first"

"""One message of a scripted peer each, and what comes of it: what may be ignored, what is refused, what stays up."""

from __future__ import annotations

import random

import pytest

from ipsecd.aead import make_sealer
from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeSaUp
from ipsecd.ike.consts import CertEncoding, ExchangeType, NotifyType, PayloadType
from ipsecd.ike.crypto import kex
from ipsecd.ike.wire.header import HEADER_BYTES
from ipsecd.ike.wire.message import MAX_PAYLOADS, UnknownPayload, build_payloads
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import CertreqPayload, VendorPayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.reports import ChildRefused, ChildRequest
from ipsecd.sa import Endpoint, Path
from ipsecd.selectors import from_prefix
from tests.support.exchange import A, B, ike, ike_policy, policy_a
from tests.support.mallory import Mallory, Payloads, child_payloads, clear, rekey_notify
from tests.support.victim import Victim

AUTH, CREATE, INFO = ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
START = Path(Endpoint(A, 500), Endpoint(B, 500))


def up(**ike: object) -> tuple[Victim, Mallory]:
    victim = Victim(policy_a(ike=ike_policy(**ike)))
    mallory = Mallory(victim)
    assert mallory.login() is not None
    return victim, mallory


def child_wish(victim: Victim) -> ChildRequest:
    child = victim.endpoint._table.policy.peers[0].children[0]
    return ChildRequest(child.key, 0, child.local, child.remote)


def begun(victim: Victim) -> bytes:
    """Have the victim initiate; return its IKE_SA_INIT request."""
    victim.endpoint.initiate("b", START, (child_wish(victim),), victim.now)
    return victim.drain()[-1].datagram


def errors(payloads: Payloads | None) -> list[int]:
    return [p.type for p in payloads or () if isinstance(p, NotifyPayload) and p.is_error]


# IKE_SA_INIT


def reserved_bits(datagram: bytes) -> bytes:
    """Set every reserved bit of the header, of each payload header, and the reserved octets of the proposal."""
    data, type_, at = bytearray(datagram), datagram[16], HEADER_BYTES
    data[19] |= 0x07
    while type_:
        data[at + 1] |= 0x7F
        if type_ == PayloadType.SA:
            data[at + 5] = data[at + 13] = data[at + 17] = 0xFF
        type_, at = data[at], at + int.from_bytes(data[at + 2:at + 4], "big")
    return bytes(data)


def test_reserved_bits_are_ignored_and_covered_by_auth_as_they_came() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init(change=reserved_bits)
    assert mallory.init_request != b""
    assert mallory.request(AUTH, *mallory.auth_payloads()) is not None
    assert victim.established() == ["b"]
    victim.check()


def test_response_with_an_unknown_critical_payload_is_not_answered_and_the_genuine_one_still_counts() -> None:
    victim = Victim(policy_a())
    request = begun(victim)
    mallory = Mallory(victim)
    assert mallory.send(mallory.respond_init(request, extra=(UnknownPayload(255, True, b""),))) == []
    assert [v.state for v in victim.endpoint.views()] == ["InitSent"]
    mallory.send(mallory.respond_init(request))
    assert [v.state for v in victim.endpoint.views()] == ["AuthSent"]
    victim.check()


@pytest.mark.parametrize("notify", [NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED, NotifyType.USE_PPK,
                                    NotifyType.IKEV2_FRAGMENTATION_SUPPORTED, NotifyType.CHILDLESS_IKEV2_SUPPORTED])
def test_option_in_the_response_that_we_did_not_offer_is_not_used(notify: NotifyType) -> None:
    victim = Victim(policy_a(ike=ike_policy(fragment_bytes=0)))
    mallory = Mallory(victim)
    mallory.send(mallory.respond_init(begun(victim), extra=(NotifyPayload(notify),)))
    header, asked = mallory.take()
    assert header.exchange == AUTH
    mallory.respond(header, *mallory.respond_auth(asked))
    assert victim.established() == ["b"]
    assert len(victim.installed) == 1
    victim.check()


@pytest.mark.parametrize(("suite", "size", "taken"), [
    ("aes256gcm16-prfsha512-x25519", 31, False), ("aes256gcm16-prfsha512-x25519", 32, True),
    ("aes256gcm16-prfsha384-x25519", 23, False), ("aes256gcm16-prfsha384-x25519", 24, True)])
def test_nonce_of_less_than_half_the_prf_key_is_refused(suite: str, size: int, *, taken: bool) -> None:
    offer = ike(suite)
    victim = Victim(policy_a(ike=ike_policy(proposals=(offer,))))
    mallory = Mallory(victim, offer=offer)
    drawn = mallory.rng.random_bytes
    mallory.rng.random_bytes = lambda count: drawn(size if count == 32 else count)  # type: ignore[method-assign]
    assert mallory.init() is taken
    assert victim.endpoint.half_open == taken
    victim.check()


def test_valid_cookie_that_nobody_asked_for_is_no_hindrance() -> None:
    # Made under load, brought when it is over: processed as if it were not there.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.ni = bytes(32)
    made = victim.endpoint._desk._jar.make(ni=mallory.ni, source_address=B, spi_i=b"initiate", now=victim.now)
    request = clear(mallory.init_payloads(kex.generate(31), spi_i=b"initiate", cookie_=made), spi_i=b"initiate")
    assert len(mallory.send(request)) == 1
    assert victim.endpoint.half_open == 1
    assert not victim.endpoint.cookies_on
    victim.check()


def test_marker_of_port_4500_is_no_part_of_a_message_on_port_500() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    assert victim.feed(bytes(4) + mallory.init_request, START) == []
    assert victim.dropped[DropReason.IKE_MALFORMED] == 1
    victim.check()


# IKE_AUTH


def test_unknown_critical_payload_in_ike_auth_is_refused_before_auth_is_looked_at() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    answer = mallory.request(AUTH, *mallory.auth_payloads(), UnknownPayload(255, True, b""))
    assert answer is not None
    refusal = find(answer, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert refusal is not None
    assert refusal.data == b"\xff"
    assert not victim.established()
    victim.wait(31)
    assert not victim.endpoint.views()
    victim.check()


@pytest.mark.parametrize("form", ["whole", "fragment"])
@pytest.mark.parametrize(("critical", "taken"), [(0x80, False), (0, True)])
def test_unknown_payload_beside_the_sealed_part_counts_only_if_it_is_critical(form: str, critical: int, *,
                                                                              taken: bool) -> None:
    # The ICV covers it, so the peer put it there; what is in clear means nothing, but RFC 7296 2.5 holds for it too.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    first, body = build_payloads(mallory.auth_payloads())
    outer, fragment = (PayloadType.SK, b"") if form == "whole" else (PayloadType.SKF, b"\0\1\0\1")
    beside = bytes([outer, critical, 0, 6]) + b"me"
    sent = mallory.seal(first, body, exchange=AUTH, message_id=1, before=beside, before_type=200, outer=outer,
                        fragment=fragment)
    answers = [mallory.open(a) for a in mallory.send(sent)]
    assert bool(victim.established()) is taken
    if not taken:
        assert answers[0] is not None
        assert errors(answers[0][1]) == [NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD]
    victim.check()


@pytest.mark.parametrize("notify", [
    NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE, NotifyType.SINGLE_PAIR_REQUIRED,
    NotifyType.FAILED_CP_REQUIRED, NotifyType.INTERNAL_ADDRESS_FAILURE])
def test_child_refused_by_an_authenticated_responder_leaves_the_ike_sa_up(notify: NotifyType) -> None:
    # HDR, SK {IDi, AUTH, SA, TSi, TSr}  -->  <-- HDR, SK {IDr, AUTH, N(refusal)}
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    header, asked = mallory.accept_init((child_wish(victim),))
    id_r, auth, *_ = mallory.respond_auth(asked)
    mallory.respond(header, id_r, auth, NotifyPayload(notify))
    assert victim.established() == ["b"]
    assert [r.failure.notify for r in victim.log if isinstance(r, ChildRefused)] == [notify.name]
    assert not mallory.inbox, "what is refused is no fault of the peer's messages"
    assert mallory.request(INFO, message_id=0) == ()
    victim.check()


def test_peer_that_wants_a_second_authentication_fails_cleanly() -> None:
    # RFC 4739: we never say MULTIPLE_AUTH_SUPPORTED, and the IKE_AUTH that would follow is dropped.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    multiple_auth, another_follows = NotifyPayload(16404), NotifyPayload(16405)
    answer = mallory.request(AUTH, *mallory.auth_payloads(), multiple_auth, another_follows)
    assert not [p for p in answer or () if isinstance(p, NotifyPayload) and p.type in (16404, 16405)]
    assert mallory.request(AUTH, *mallory.auth_payloads()) is None
    assert len(victim.events(IkeSaUp)) == 1
    victim.check()


@pytest.mark.parametrize("certreq", [
    CertreqPayload(CertEncoding.X509_SIGNATURE, b""), CertreqPayload(CertEncoding.X509_SIGNATURE, b"x" * 19),
    CertreqPayload(CertEncoding.X509_SIGNATURE, b"x" * 41), CertreqPayload(200, b"x" * 20), CertreqPayload(0, b"")])
def test_request_for_certificates_is_never_a_failure(certreq: CertreqPayload) -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    id_i, *rest = mallory.auth_payloads()
    assert mallory.request(AUTH, id_i, certreq, *rest) is not None
    assert victim.established() == ["b"]
    victim.check()


# After it


@pytest.mark.parametrize(("local", "remote"), [
    ("0.0.0.0/0", "0.0.0.0/0"), ("10.2.0.0/16", "10.0.0.0/8"), ("10.0.0.0/8", "10.1.0.0/16")],
    ids=["everything", "superset of ours", "superset of theirs"])
def test_rekey_with_wider_selectors_keeps_those_of_the_child(local: str, remote: str) -> None:
    victim, mallory = up()
    answer = mallory.request(CREATE, rekey_notify(b"\xc0\0\0\1"), *child_payloads(local=local, remote=remote))
    assert [p.selectors for p in answer or () if isinstance(p, TsPayload)] == [
        (from_prefix("10.2.0.0/16"),), (from_prefix("10.1.0.0/16"),)]
    assert len(victim.installed) == 2
    victim.check()


@pytest.mark.parametrize(("local", "remote"), [("10.2.0.1", "10.1.0.1"), ("10.2.0.0/24", "10.1.0.0/16")])
def test_rekey_of_the_peer_to_less_leaves_no_doubt_about_the_rest(local: str, remote: str) -> None:
    # RFC 7296 2.9.2: a rekey must not narrow what is in use; either it is refused, or both ends know the new selectors.
    victim, mallory = up()
    answer = mallory.request(CREATE, rekey_notify(b"\xc0\0\0\1"), *child_payloads(local=local, remote=remote))
    told = [p.selectors for p in answer or () if isinstance(p, TsPayload)]
    assert told == [(from_prefix(local),), (from_prefix(remote),)] or errors(answer)
    assert victim.established() == ["b"]
    victim.check()


def test_narrower_answer_to_our_rekey_is_refused_and_the_old_pair_stays() -> None:
    victim, mallory = up()
    (old,) = victim.installed
    victim.endpoint.rekey_child(old, victim.now)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, asked = mallory.take()
    sa, _, _, nonce = mallory.child_answer(asked)
    narrow = tuple(TsPayload(t, (from_prefix(p),)) for t, p in ((PayloadType.TSI, "10.1.0.1"),
                                                                (PayloadType.TSR, "10.2.0.1")))
    mallory.respond(header, sa, *narrow, nonce)
    assert old in victim.installed
    assert victim.established() == ["b"]
    victim.check()


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\0", b"\0\0\0\x08", b"\xff\xff\xff\xff", bytes(5)])
def test_window_size_of_the_peer_changes_nothing_of_ours(data: bytes) -> None:
    # RFC 7296 2.3: it would allow us more requests at once, and we ask one at a time.
    victim, mallory = up()
    assert mallory.request(INFO, NotifyPayload(NotifyType.SET_WINDOW_SIZE, data)) == ()
    assert mallory.request(INFO) == ()
    victim.check()


@pytest.mark.parametrize("count", [MAX_PAYLOADS - 1, MAX_PAYLOADS, MAX_PAYLOADS + 1])
@pytest.mark.parametrize("form", ["whole", "fragments"])
def test_limit_of_payloads_is_the_same_with_and_without_fragments(count: int, form: str) -> None:
    victim, mallory = up()
    first, body = build_payloads([UnknownPayload(200, False, bytes(10))] * count)
    if form == "whole":
        sent = [mallory.seal(first, body, exchange=INFO, message_id=2)]
    else:
        half = len(body) // 2
        sent = [mallory.seal(first if n == 1 else 0, piece, exchange=INFO, message_id=2, outer=PayloadType.SKF,
                             fragment=bytes([0, n, 0, 2])) for n, piece in enumerate((body[:half], body[half:]), 1)]
    answers = [mallory.open(a) for datagram in sent for a in mallory.send(datagram)]
    assert len(answers) == 1
    assert answers[0] is not None
    assert errors(answers[0][1]) == ([] if count <= MAX_PAYLOADS else [NotifyType.INVALID_SYNTAX])
    victim.check()


@pytest.mark.parametrize("size", [1280, 3000, 10_000, 65_535])
def test_message_of_any_size_up_to_the_limit_is_taken(size: int) -> None:
    victim, mallory = up()
    empty = len(mallory.seal(*build_payloads((VendorPayload(b""),)), exchange=INFO, message_id=2))
    datagram = mallory.seal(*build_payloads((VendorPayload(bytes(size - empty)),)), exchange=INFO, message_id=2)
    assert len(datagram) == size
    assert len(mallory.send(datagram)) == 1
    assert mallory.request(INFO, message_id=3) == ()
    victim.check()


def test_padding_of_any_length_and_content_is_taken() -> None:
    # RFC 7296 3.14: the sender chooses both; only its length octet counts.
    chance = random.Random(1)
    victim, mallory = up()
    for number, pad in enumerate((0, 1, 2, 15, 16, 100, 255), 2):
        # seal() puts a pad length of 0 behind; what precedes it decides about nothing but a payload chain of ours.
        assert mallory.send(_padded(mallory, chance.randbytes(pad), message_id=number))
        assert victim.dropped.get(DropReason.IKE_BAD_ICV) is None
    assert victim.established() == ["b"]
    victim.check()


def test_fragments_of_a_peer_with_whom_they_were_not_agreed_are_dropped() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    announced, other = (int(n).to_bytes(2, "big") for n in (NotifyType.IKEV2_FRAGMENTATION_SUPPORTED, 40000))
    assert mallory.init(change=lambda d: d.replace(announced, other))
    assert mallory.request(AUTH, *mallory.auth_payloads()) is not None
    first, body = build_payloads((VendorPayload(b"v"),))
    sent = mallory.seal(first, body, exchange=INFO, message_id=2, outer=PayloadType.SKF, fragment=b"\0\1\0\1")
    assert mallory.send(sent) == []
    assert victim.dropped[DropReason.IKE_FRAGMENT] == 1
    assert mallory.request(INFO, message_id=2) == ()
    victim.check()


def test_delete_answered_empty_takes_the_pair_away_at_our_end_all_the_same() -> None:
    # RFC 7296 1.4.1: no half of a pair stays open, whatever the peer says of its own half.
    victim, mallory = up()
    (spi,) = victim.installed
    victim.endpoint.delete_child(spi, victim.now, Cause.OPERATOR)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, _ = mallory.take()
    mallory.respond(header)
    victim.wait(10)
    assert not victim.installed
    assert victim.established() == ["b"]
    victim.check()


def _padded(mallory: Mallory, padding: bytes, *, message_id: int) -> bytes:
    """Return an empty request with this padding."""
    crypto = mallory.crypto
    assert crypto is not None
    whole = mallory.seal(0, padding, exchange=INFO, message_id=message_id)
    sealer = make_sealer(crypto.suite.encr, crypto.suite.integ, encr_key=crypto.keys.sk_ei, integ_key=crypto.keys.sk_ai)
    head, iv = whole[:HEADER_BYTES + 4], whole[HEADER_BYTES + 4:HEADER_BYTES + 4 + sealer.iv_bytes]
    return head + iv + sealer.seal(iv, padding + bytes([len(padding)]), head)

"""Post-quantum pre-shared keys in IKE_AUTH (RFC 8784)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed, LocalFault, Warned
from ipsecd.ike.consts import NotifyType
from ipsecd.policy import AuthPolicy, Policy, Ppk
from ipsecd.reports import ChildUp, IkeFailed, IkeUp
from ipsecd.secret import Secret
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import exchange, sent_by

MUST = Ppk(b"key-1", Secret(bytes(range(32))), required=True)
MAY = replace(MUST, required=False)


def pair(a: Ppk | None, b: Ppk | None, auth: tuple[AuthPolicy, AuthPolicy] = (AuthPolicy(), AuthPolicy())) -> Two:
    def changed(base: Policy, ppk: Ppk | None, method: AuthPolicy) -> Policy:
        return replace(base, peers=(replace(base.peers[0], ppk=ppk, auth=method),))

    return Two(changed(policy_a(), a, auth[0]), changed(policy_b(), b, auth[1]))


def mixed(two: Two) -> bool:
    """Return whether SK_d is another than the key exchange alone gives: both ends say the same."""
    warned = [bool([w for w in host.events(Warned) if w.what == "ppk_not_used"]) for host in (two.a, two.b)]
    sk_d = [host.endpoint._table.current[1].session.crypto.keys.sk_d for host in (two.a, two.b)]
    assert sk_d[0] == sk_d[1]
    return not any(warned)


@pytest.mark.parametrize(("a", "b"), [(MUST, MUST), (MUST, MAY), (MAY, MUST), (MAY, MAY)])
@pytest.mark.parametrize("auth", [(AuthPolicy(), AuthPolicy()), (by_certificate(GW_A), by_certificate(GW_B)),
                                  (AuthPolicy(by_certificate(GW_A).local, None),
                                   AuthPolicy(None, by_certificate(GW_B).remote))], ids=["psk", "cert", "mixed"])
def test_shared_key_is_in_the_keys_of_both_ends(a: Ppk, b: Ppk, auth: tuple[AuthPolicy, AuthPolicy]) -> None:
    # IKE_SA_INIT { SA, KE, Ni, N(USE_PPK) } -->
    # <-- IKE_SA_INIT { SA, KE, Nr, N(USE_PPK) }
    # IKE_AUTH { IDi, AUTH, SA, TSi, TSr, N(PPK_IDENTITY), [N(NO_PPK_AUTH)] } -->
    # <-- IKE_AUTH { IDr, AUTH, SA, TSi, TSr, N(PPK_IDENTITY) }
    two = pair(a, b, auth)
    two.establish()                             # which compares the keys of the pairs on both ends
    assert mixed(two)


def test_ppk_survives_rekeying_of_ike_and_child() -> None:
    two = pair(MUST, MUST)
    handle = two.establish()
    two.a.endpoint.rekey_ike(handle, two.net.now)
    two.a.collect()
    two.net.run(1)
    two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
    two.b.collect()
    two.net.run(10)
    two.check(children=1)


@pytest.mark.parametrize(("a", "b"), [(MAY, None), (None, MAY), (MAY, replace(MAY, id=b"key-2"))])
def test_optional_key_that_the_other_end_lacks_is_done_without_and_told(a: Ppk | None, b: Ppk | None) -> None:
    two = pair(a, b)
    two.establish()
    assert not mixed(two)


@pytest.mark.parametrize(("a", "b", "causes"), [
    (MUST, None, (Cause.PPK_MISMATCH, None)),                                               # seen in IKE_SA_INIT
    (None, MUST, (Cause.PEER_REFUSED_AUTH, Cause.PPK_MISMATCH)),
    (MAY, replace(MUST, id=b"key-2"), (Cause.PEER_REFUSED_AUTH, Cause.PPK_MISMATCH)),
    (MUST, replace(MAY, id=b"key-2"), (Cause.PEER_REFUSED_AUTH, Cause.PPK_MISMATCH)),
    (MUST, replace(MUST, key=Secret(b"x" * 31 + b"y")), (Cause.PEER_REFUSED_AUTH, Cause.AUTHENTICATION_FAILED)),
    (MAY, replace(MAY, key=Secret(b"x" * 31 + b"y")), (Cause.PEER_REFUSED_AUTH, Cause.AUTHENTICATION_FAILED)),
])
def test_required_or_differing_key_brings_nothing_up(a: Ppk | None, b: Ppk | None,
                                                     causes: tuple[Cause, Cause | None]) -> None:
    two = pair(a, b)
    two.initiate(two.a)
    two.net.run(45)
    assert not two.a.endpoint.views() + two.b.endpoint.views()
    assert not two.a.reports(IkeUp) + two.b.reports(ChildUp)
    assert not two.a.events(LocalFault) + two.b.events(LocalFault)
    assert two.a.reports(IkeFailed)[0].failure.cause is causes[0]
    if causes[1] is not None:
        assert two.b.last_event(IkeAttemptFailed).failure.cause is causes[1]


@pytest.mark.parametrize("response", [False, True])
def test_use_ppk_taken_away_on_the_way_is_noticed(response: bool) -> None:
    # Somebody between two ends that may do without makes USE_PPK unreadable: AUTH covers what was sent.
    two = pair(MAY, MAY)
    wanted = bytes.fromhex("0000") + int(NotifyType.USE_PPK).to_bytes(2, "big")
    other = bytes.fromhex("0000") + (40000).to_bytes(2, "big")
    tampered = exchange(34, response=response)
    two.net.rewrite(lambda d: replace(d, data=d.data.replace(wanted, other)) if tampered(d) else d)
    two.initiate(two.a)
    two.net.run(45)
    assert not two.a.reports(IkeUp)
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_peer_that_reveals_why_says_only_authentication_failed() -> None:
    sizes = []
    for b in (replace(MUST, id=b"key-2"), replace(MUST, key=Secret(b"x" * 31 + b"y"))):
        two = pair(MUST, b)
        two.initiate(two.a)
        two.net.run(45)
        sizes.append([len(d.data) for d in two.net.sent if sent_by(two.b)(d)][-1])
    assert len(set(sizes)) == 1

"""Additional key exchanges at their limits: seven of them, the largest values, altered ones, and one end without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed, LocalFault
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.wire.message import build_payloads
from ipsecd.ike.wire.payloads import VendorPayload
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved, IkeUp
from tests.exchange.test_follow_up import healthy, rekey_child, rekey_ike
from tests.exchange.test_hybrid import pair
from tests.support.exchange import Two, esp, ike, ike_policy, policy_a, policy_b
from tests.support.ladder import chained, inside, joined
from tests.support.sim import exchange

INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE
SEVEN = ike("aes256gcm16-prfsha384-x25519-ke1_ecp256-ke2_ecp384-ke3_ecp521-ke4_mlkem768-ke5_mlkem1024-ke6_modp2048"
            "-ke7_modp3072")
LARGEST = ike("aes256gcm16-prfsha512-modp8192-ke1_mlkem1024")
CLASSICAL, HYBRID = "x25519", "x25519-ke1_mlkem768"


def test_seven_additional_key_exchanges_each_change_the_keys() -> None:
    two = pair((SEVEN,), (SEVEN,))
    two.establish()
    numbers = {d.header.message_id for d in two.net.sent if exchange(INTERMEDIATE)(d)}
    assert numbers == set(range(1, 8))
    assert {d.header.message_id for d in two.net.sent if exchange(ExchangeType.IKE_AUTH)(d)} == {8}


def test_largest_key_exchanges_go_through_a_path_of_1280_bytes() -> None:
    # IKE_SA_INIT cannot be fragmented (RFC 7383 2.4): 1024 bytes of MODP-8192 have to fit as they are.
    two = pair((LARGEST,), (LARGEST,))
    two.establish()
    assert max(len(d.data) for d in two.net.sent if not exchange(ExchangeType.IKE_SA_INIT)(d)) <= 1280 - 28
    assert max(len(d.data) for d in two.net.sent) <= 1472


@pytest.mark.parametrize("response", [False, True])
def test_content_of_an_intermediate_exchange_is_covered_by_auth(*, response: bool) -> None:
    # Somebody who broke the first key exchange in time changes what the second one says beside its value.
    offer = (ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768"),)
    two = pair(offer, offer, fragment_bytes=0)
    first, vendor = build_payloads((VendorPayload(b"altered"),))
    change = inside(lambda content: joined([*chained(content), (first, vendor)]))
    wanted = exchange(INTERMEDIATE, response=response)
    two.net.rewrite(lambda d: replace(d, data=change(two, d)) if wanted(d) else d)  # type: ignore[arg-type]
    two.initiate(two.a)
    two.net.run(60)
    assert not two.a.reports(IkeUp)
    assert not two.a.endpoint.views() + two.b.endpoint.views()
    causes = {e.failure.cause for host in (two.a, two.b) for e in host.events(IkeAttemptFailed)}
    assert Cause.AUTHENTICATION_FAILED in causes
    assert not two.a.events(LocalFault) + two.b.events(LocalFault)


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("rekey", [rekey_child, rekey_ike])
def test_rekey_goes_without_what_one_end_no_longer_offers(side: str, rekey: object) -> None:
    def proposals(*kes: str) -> dict[str, object]:
        return {"ike": ike_policy(proposals=tuple(ike(f"aes256gcm16-prfsha384-{k}") for k in kes)),
                "proposals": tuple(esp(f"aes256gcm16-{k}") for k in kes), "pfs": Pfs.REQUIRED}
    two = Two(policy_a(**proposals(HYBRID, CLASSICAL)), policy_b(**proposals(CLASSICAL)))  # type: ignore[arg-type]
    two.establish()
    rekey(two, two.net.hosts[side])  # type: ignore[operator]
    two.net.run(LINGER_S + 65)
    two.check(children=1)
    healthy(two)
    assert not [d for d in two.net.sent if exchange(ExchangeType.IKE_FOLLOWUP_KE)(d)]
    assert not two.a.reports(ChildGone)
    assert len(two.a.reports(ChildMoved)) == (rekey is rekey_child)

"""The early PFS probe: a disagreement about key exchange shows within minutes, costs one exchange and no pair."""

from __future__ import annotations

from ipsecd.causes import Cause
from ipsecd.events import ChildFailed, Notice
from ipsecd.ike.pfs_probe import PROBE_MAX_S
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved
from tests.support.exchange import Two, esp, policy_a, policy_b


def test_probe_rekeys_the_first_child_early_and_once() -> None:
    two = Two()
    two.establish()
    two.net.run(PROBE_MAX_S + 10)
    two.check(children=1)
    assert len(two.a.reports(ChildMoved)) == len(two.b.reports(ChildMoved)) == 1
    assert not two.a.reports(ChildGone)
    assert next(iter(two.a.pairs.values())).suite.ke
    two.net.run(PROBE_MAX_S * 3)
    assert len(two.a.reports(ChildMoved)) == 1


def test_probe_names_the_groups_that_the_peer_refuses_and_keeps_the_pair() -> None:
    two = Two(policy_a(pfs=Pfs.REQUIRED, proposals=(esp("aes256gcm16-x25519"),)),
              policy_b(pfs=Pfs.REQUIRED, proposals=(esp("aes256gcm16-ecp384"),)))
    two.establish()
    old = two.pair(two.a)
    two.net.run(PROBE_MAX_S + 600)
    two.check(children=1)
    assert two.pair(two.a) == old
    (said,) = two.a.events(ChildFailed)
    assert (said.child, said.failure.cause, said.failure.notify) == ("lan", Cause.PFS_MISMATCH, "NO_PROPOSAL_CHOSEN")
    assert "x25519" in said.failure.detail
    (heard,) = two.b.events(ChildFailed)
    assert heard.failure.cause is Cause.PFS_MISMATCH
    assert heard.failure.detail == "peer offers KE x25519 only; we ask for ecp384"
    assert "ecp384" in heard.failure.ours
    assert "x25519" in heard.failure.theirs


def test_probe_says_that_rekeys_go_without_key_exchange_where_both_allow_it() -> None:
    two = Two(policy_a(pfs=Pfs.OFFER), policy_b(pfs=Pfs.OFF))
    two.establish()
    two.net.run(PROBE_MAX_S + 10)
    two.check(children=1)
    assert "pfs_not_used" in {e.what for e in two.a.events(Notice)}


def test_probe_is_not_made_where_no_key_exchange_is_configured() -> None:
    two = Two(policy_a(pfs=Pfs.OFF), policy_b())
    two.establish()
    two.net.run(PROBE_MAX_S + 10)
    assert not two.a.reports(ChildMoved)
    assert not two.b.reports(ChildMoved)


def test_probe_is_made_once_for_a_configuration_over_all_its_ike_sas() -> None:
    two = Two()
    handle = two.establish()
    two.net.run(PROBE_MAX_S + 10)
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.OPERATOR)
    two.net.run(5)
    two.initiate(two.a)
    two.net.run(PROBE_MAX_S + 10)
    assert len(two.a.reports(ChildMoved)) == 1
    two.check(children=1)

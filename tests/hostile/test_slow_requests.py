"""An authenticated peer that asks while its key exchanges are worked on: what was checked may be true no more."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import ChildFailed, IkeAttemptFailed
from ipsecd.ike.child_sa import SWITCH_S
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType, ProtocolId
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.negotiate import offer_esp
from ipsecd.ike.session import MAX_CHILDREN
from ipsecd.ike.tasks.child_rekey import RETRY_MAX_S
from ipsecd.ike.window import RESPONDER_WINDOW
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import DeletePayload, KePayload
from ipsecd.policy import AuthPolicy, EsnPolicy, Pfs, Policy
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate, credential, trust, with_auth
from tests.exchange.test_many_remotes import BRANCH_NETS, HQ_NETS, branches
from tests.support.exchange import B, Two, child_policy, esp, fqdn, ike_policy, policy, policy_a, policy_b
from tests.support.mallory import Mallory, Payloads, child_payloads, rekey_notify
from tests.support.pki import authority
from tests.support.victim import Victim

CHILD, INFO, FOLLOW_UP = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, ExchangeType.IKE_FOLLOWUP_KE
OTHER = "192.0.2.77"
PLAIN, HYBRID = esp("aes256gcm16-x25519"), esp("aes256gcm16-x25519-ke1_mlkem768")


def with_ke(spi: int, *, local: str = "10.2.0.0/16", remote: str = "10.1.0.0/16", hybrid: bool = False) -> Payloads:
    """Return a request for a pair whose answer takes a key exchange."""
    sa = offer_esp((HYBRID if hybrid else PLAIN,), spi=spi.to_bytes(4, "big"), with_ke=True, pfs=Pfs.REQUIRED,
                   esn=EsnPolicy.AUTO)
    _, ts_i, ts_r, nonce = child_payloads(local=local, remote=remote)
    return sa, nonce, KePayload(31, generate(31).public), ts_i, ts_r


def late_answer(mallory: Mallory) -> Payloads:
    """Let the held key exchanges end; return the payloads of the one answer."""
    (sent,) = mallory.victim.run_jobs()
    opened = mallory.open(sent.datagram)
    assert opened is not None
    return opened[1]


def test_requests_that_take_long_are_few_at_a_time_and_the_others_come_through_later() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    victim.hold_jobs = True
    for number in range(100):
        mallory.request(CHILD, *with_ke(0xD0000000 + number), message_id=mallory.next_id + number)
    assert len(victim._held) == RESPONDER_WINDOW
    assert victim.dropped[DropReason.IKE_BUSY] >= RESPONDER_WINDOW
    mallory.inbox += [s.datagram for s in victim.run_jobs()]
    assert len(victim.installed) == 1 + RESPONDER_WINDOW
    victim.hold_jobs = False
    mallory.next_id += RESPONDER_WINDOW
    assert mallory.request(INFO) == ()
    victim.check()


def test_pairs_asked_for_at_once_are_not_more_than_one_peer_may_have() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    for number in range(MAX_CHILDREN - 2):
        victim.now += 0.05
        mallory.request(CHILD, *child_payloads(spi=0xD0000000 + number))
    victim.hold_jobs = True
    for number in range(RESPONDER_WINDOW):
        mallory.request(CHILD, *with_ke(0xE0000000 + number))
    victim.run_jobs()
    assert len(victim.installed) == MAX_CHILDREN
    victim.wait(0)
    victim.check()


class Branches:
    """A head end with two remotes of one entry, which share its networks."""

    def __init__(self) -> None:
        lan = child_policy("branches", "lan", HQ_NETS, BRANCH_NETS, proposals=(HYBRID, PLAIN))
        self.victim = Victim(policy(branches(children=(lan,))), address="203.0.113.2")
        self.one, self.two = (Mallory(self.victim, fqdn(f"{name}.branches.example"), address, seed=name)
                              for name, address in (("one", B), ("two", OTHER)))
        for mallory in (self.one, self.two):
            assert mallory.login(child=False)

    def refused(self, answer: Payloads | None) -> bool:
        """Return whether one was refused what two has, which is as it was."""
        self.victim.check()
        told = self.victim.events(ChildFailed)
        return (answer is not None and find(answer, NotifyType.TS_UNACCEPTABLE) is not None
                and len(self.victim.installed) == 1 and [e.peer for e in told] == ["branches[one.branches.example]"])


def test_network_that_another_remote_took_during_a_key_exchange_is_refused() -> None:
    world = Branches()
    world.victim.hold_jobs = True
    world.one.request(CHILD, *with_ke(0xD0000001, local="10.100.1.0/24", remote=HQ_NETS))
    assert world.two.request(CHILD, *child_payloads(local="10.100.1.0/24", remote=HQ_NETS))
    assert world.refused(late_answer(world.one))


def test_network_that_another_remote_took_between_key_exchanges_is_refused() -> None:
    # RFC 9370 2.2.4 leaves the peer minutes for the additional ones.
    world = Branches()
    answer = world.one.request(CHILD, *with_ke(0xD0000001, local="10.100.1.0/24", remote=HQ_NETS, hybrid=True))
    link = find(answer or (), NotifyType.ADDITIONAL_KEY_EXCHANGE)
    assert link is not None
    world.victim.wait(100)
    assert world.two.request(CHILD, *child_payloads(local="10.100.1.0/24", remote=HQ_NETS))
    mlkem = generate(KeId.ML_KEM_768)
    assert world.refused(world.one.request(
        FOLLOW_UP, KePayload(mlkem.method, mlkem.public),
        NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link.data)))


def signing(**ike: object) -> Policy:
    """Return a policy whose gateway signs, and takes a pre-shared key from its peer."""
    return with_auth(policy_a(ike=ike_policy(**ike)), AuthPolicy(credential(GW_A), None))


def test_second_ike_sa_of_an_identity_is_rejected_also_where_both_were_proved_before_either_was_up() -> None:
    victim = Victim(signing(unique="reject"))
    both = [Mallory(victim, seed=number) for number in range(2)]
    for mallory in both:
        assert mallory.init()
    victim.hold_jobs = True
    for mallory in both:
        mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads())
    assert len(victim._held) == 2
    victim.run_jobs()
    assert victim.established() == ["b"]
    assert [e.failure.cause for e in victim.events(IkeAttemptFailed)] == [Cause.OCCUPIED]
    victim.check()


@pytest.mark.parametrize("after", [policy(), signing(lifetime_s=300)])
def test_peer_whose_entry_a_reload_removed_or_changed_while_we_signed_is_not_let_in(after: Policy) -> None:
    victim = Victim(signing())
    mallory = Mallory(victim)
    assert mallory.init()
    victim.hold_jobs = True
    mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads())
    victim.endpoint.replace_policy(after, victim.now)
    victim.run_jobs()
    assert victim.established() == []
    assert victim.installed == set()
    assert [e.failure.cause for e in victim.events(IkeAttemptFailed)] == [Cause.RELOADED]
    victim.check()


def test_peer_is_not_taken_under_an_entry_that_trusts_others_since_a_reload() -> None:
    # As initiator: what the old entry trusted proved the peer, and the new one does not.
    two = Two(with_auth(policy_a(), by_certificate(GW_A)), with_auth(policy_b(), by_certificate(GW_B)))
    two.a.work_s = 0.5
    two.initiate(two.a)
    two.net.run_until(lambda: bool(two.b.established()), limit_s=5)
    two.net.run(0.05)
    trusting = with_auth(policy_a(), by_certificate(GW_A, trusted=trust(authority("CN=Another", which=9))))
    two.a.endpoint.replace_policy(trusting, two.net.now)
    two.net.run(20)
    assert not two.a.established()
    assert not two.b.established()
    assert two.a.last_event(IkeAttemptFailed).failure.cause is Cause.RELOADED


@pytest.mark.parametrize("after", ["removed", "changed"])
def test_pair_of_a_child_that_a_reload_changed_during_the_key_exchange_is_not_made(after: str) -> None:
    victim = Victim(policy_a("lan", "voice"))
    mallory = Mallory(victim)
    mallory.login()
    victim.hold_jobs = True
    mallory.request(CHILD, *with_ke(0xD0000001, local="10.4.0.0/16", remote="10.3.0.0/16"))
    victim.endpoint.replace_policy(policy_a("lan") if after == "removed" else
                                   policy_a("lan", "voice", replay_window=64), victim.now)
    assert late_answer(mallory) == (NotifyPayload(NotifyType.TEMPORARY_FAILURE),)
    assert len(victim.installed) == 1
    victim.check()


def test_successor_that_the_peer_takes_back_leaves_its_pair_to_be_rekeyed() -> None:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    (old,) = victim.installed
    assert mallory.request(CHILD, rekey_notify(b"\xc0\0\0\1"), *child_payloads(spi=0xC0000077))
    assert len(victim.installed) == 2
    mallory.request(INFO, DeletePayload(ProtocolId.ESP, (b"\xc0\0\0\x77",)))
    assert victim.installed == {old}
    victim.wait(SWITCH_S + RETRY_MAX_S)
    session = victim.endpoint._table.by_child[old].session
    assert session.children[old].live
    victim.endpoint.rekey_child(old, victim.now)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, asked = mallory.take()
    assert header.exchange == CHILD
    assert find(asked, NotifyType.REKEY_SA) is not None
    victim.check()

"""An authenticated peer that does whatever comes to its mind while ours works slowly: no fault, nothing forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import SendIke
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType, ProtocolId
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.negotiate import offer_esp, offer_ike
from ipsecd.ike.session import Timer, TimerKind
from ipsecd.ike.states import ChildState
from ipsecd.ike.tasks.child_rekey import rekey_of
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import DeletePayload, KePayload, NoncePayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.policy import EsnPolicy, Pfs, Policy
from ipsecd.reports import ChildGone, ChildMoved, ChildRequest, ChildUp
from tests.support.exchange import IKE, esp, ike_policy, policy_a
from tests.support.mallory import Mallory, Payloads, child_payloads, rekey_notify
from tests.support.victim import Victim

ORDINARY, PROOF, ELSEWHERE = 60, 2000, 100_000      # walks of STEPS; the long proof tries others
STEPS = 60
CHILD, INFO, FOLLOW_UP = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, ExchangeType.IKE_FOLLOWUP_KE
PLAIN, HYBRID = esp("aes256gcm16-x25519"), esp("aes256gcm16-x25519-ke1_mlkem768")
SPIS = [0xC0000001 + n for n in range(6)]
NETS = [("10.2.0.0/16", "10.1.0.0/16"), ("10.4.0.0/16", "10.3.0.0/16"), ("10.2.0.0/24", "10.1.0.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0")]
ERRORS = [NotifyType.TEMPORARY_FAILURE, NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.CHILD_SA_NOT_FOUND,
          NotifyType.NO_ADDITIONAL_SAS, NotifyType.TS_UNACCEPTABLE, NotifyType.SINGLE_PAIR_REQUIRED,
          NotifyType.INVALID_SYNTAX, NotifyType.STATE_NOT_FOUND, NotifyType.INVALID_KE_PAYLOAD]
KES = {31: generate(31), 36: generate(36)}


@pytest.mark.parametrize("part", range(4))
def test_peer_that_walks_at_random_meets_no_fault_and_leaves_no_pair_forgotten(part: int) -> None:
    for seed in range(part, ORDINARY, 4):
        walk(Walk(seed))


@pytest.mark.long
def test_peer_that_walks_at_random_for_long_meets_no_fault() -> None:
    for seed in range(ELSEWHERE, ELSEWHERE + PROOF):
        walk(Walk(seed))


def walk(made: Walk) -> None:
    for _ in range(STEPS):
        made.step()
    made.rest()


class Careful(Mallory):
    """Has several IKE SAs, and reads on each what belongs there."""

    def open(self, datagram: bytes) -> tuple[IkeHeader, Payloads] | None:
        assert self.crypto is not None
        return super().open(datagram) if datagram[:16] == self.crypto.spi_i + self.crypto.spi_r else None

    def oldest(self) -> tuple[IkeHeader, Payloads] | None:
        """Return the oldest request of the victim that is not answered."""
        while self.inbox:
            opened = self.open(self.inbox.pop(0))
            if opened is not None and not opened[0].is_response:
                return opened
        return None

    def successor(self) -> Careful | None:
        found = self.rekey_ike()
        if found is not None:
            found.__class__ = Careful
        assert found is None or isinstance(found, Careful)
        return found


class Walk:
    """One peer, one victim, and steps that chance chooses."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.victim = self.make_victim(seed)
        self.links: list[bytes] = []
        self.trail: list[str] = []
        self.ours: list[Careful] = []
        self.login()

    def make_victim(self, seed: int) -> Victim:
        return Victim(self.policy(), seed=seed)

    def policy(self) -> Policy:
        c = self.chance
        names = c.choice((("lan",), ("lan", "voice"), ("lan", "voice"), ("voice", "lan")))
        return policy_a(*names, ike=ike_policy(mobike=c.random() < 0.5, redirect=c.random() < 0.5,
                                               dpd_s=c.choice((0, 10)), reauth_s=c.choice((0.0, 500.0)),
                                               proposals=(IKE,)),
                        proposals=(HYBRID, PLAIN), pfs=c.choice((Pfs.OFFER, Pfs.OFF, Pfs.OFFER)))

    def login(self) -> None:
        mallory = Careful(self.victim, seed=(self.seed, self.victim.sent))
        if not mallory.init():
            return
        payloads = mallory.auth_payloads(spi=self.chance.choice(SPIS))
        extra = (NotifyPayload(NotifyType.MOBIKE_SUPPORTED),) if self.chance.random() < 0.5 else ()
        mallory.request(ExchangeType.IKE_AUTH, *payloads, *extra)
        self.ours.append(mallory)

    @property
    def mallory(self) -> Careful:
        return self.chance.choice(self.ours[-2:])

    def collect(self) -> None:
        self.sort(self.victim.drain())

    def sort(self, sent: list[SendIke]) -> None:
        for m in self.ours:
            assert m.crypto is not None
            m.inbox += [s.datagram for s in sent
                        if s.datagram[:16] == m.crypto.spi_i + m.crypto.spi_r and s.datagram not in m.inbox]

    # What the peer does

    def step(self) -> None:
        c = self.chance
        do: Callable[[], None] = c.choice((
            self.create, self.create, self.rekey, self.rekey, self.delete, self.delete, self.rekey_ike, self.inform,
            self.inform, self.follow_up, self.answer, self.answer, self.answer, self.answer, self.ask, self.ask,
            self.ask, self.wait, self.wait, self.hold, self.jobs, self.jobs, self.reload, self.adopt, self.again))
        self.trail.append(do.__name__)
        do()
        self.collect()
        assert not self.victim.faults, self.victim.faults

    def child(self) -> Payloads:
        c = self.chance
        local, remote = c.choice(NETS)
        proposal, with_ke = c.choice(((PLAIN, True), (HYBRID, True), (PLAIN, False)))
        sa = offer_esp((proposal,), spi=c.choice(SPIS).to_bytes(4, "big"), with_ke=with_ke,
                       pfs=Pfs.REQUIRED if with_ke else Pfs.OFF, esn=EsnPolicy.AUTO)
        _, ts_i, ts_r, nonce = child_payloads(local=local, remote=remote,
                                              ni=c.choice((b"\0" * 32, b"\xff" * 32, b"n" * 32)))
        return (sa, nonce, *((KePayload(31, KES[31].public),) if with_ke else ()), ts_i, ts_r)

    def say(self, exchange: int, *payloads: Payload) -> Payloads | None:
        m = self.mallory
        number = m.next_id
        answer = m.request(exchange, *payloads)
        if self.chance.random() < 0.1:
            m.next_id = number + self.chance.choice((0, 1, 2))     # the next takes its place, or one is left out
        link = find(answer or (), NotifyType.ADDITIONAL_KEY_EXCHANGE)
        if link is not None:
            self.links.append(link.data)
        return answer

    def create(self) -> None:
        self.say(CHILD, *self.child())

    def rekey(self) -> None:
        self.say(CHILD, rekey_notify(self.chance.choice(SPIS).to_bytes(4, "big")), *self.child())

    def delete(self) -> None:
        c = self.chance
        if c.random() < 0.08:
            self.say(INFO, DeletePayload(ProtocolId.IKE))
            return
        spis = tuple(s.to_bytes(4, "big") for s in c.sample(SPIS, c.randint(1, 3)))
        self.say(INFO, DeletePayload(ProtocolId.ESP, spis))

    def rekey_ike(self) -> None:
        if self.victim.hold_jobs:
            self.say(CHILD, offer_ike((IKE,), spi=self.chance.randbytes(8)),
                     NoncePayload(self.chance.choice((b"\0" * 32, b"\xff" * 32))), KePayload(31, KES[31].public))
            return
        found = self.mallory.successor()
        if found is not None:
            self.ours.append(found)

    def inform(self) -> None:
        c = self.chance
        number = self.chance.choice((0, 5, 100))
        said = c.choice(((), (), (NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES),),
                         (NotifyPayload(NotifyType.AUTH_LIFETIME, number.to_bytes(4, "big")),),
                         (NotifyPayload(NotifyType.REDIRECT, b"\1\4\xc6\x33\x64\x09"),),
                         (NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
                          NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(20)),
                          NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES)),
                         (NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, b"\xc6\x33\x64\x07"),),
                         (NotifyPayload(NotifyType.NO_ADDITIONAL_ADDRESSES),),
                         (NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, bytes(32)),)))
        self.say(INFO, *said)

    def follow_up(self) -> None:
        link = self.chance.choice(self.links) if self.links else b"nothing"
        method = self.chance.choice((KeId.ML_KEM_768, KeId.ML_KEM_768, 31))
        self.say(FOLLOW_UP, KePayload(method, KES[int(method)].public),
                 NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link))

    def answer(self) -> None:
        c, m = self.chance, self.mallory
        found = m.oldest()
        if found is None:
            return
        header, asked = found
        said: Payloads
        if header.exchange == CHILD and find(asked, NotifyType.REKEY_SA) is None and not any(
                isinstance(p, TsPayload) for p in asked):
            said = (NotifyPayload(c.choice(ERRORS)),)
        elif header.exchange == CHILD and c.random() < 0.7 and find(asked, NotifyType.ADDITIONAL_KEY_EXCHANGE) is None:
            said = m.child_answer(asked, spi=c.choice(SPIS))
        elif header.exchange == INFO and c.random() < 0.8:
            back = find(asked, NotifyType.COOKIE2)
            said = (back,) if back else ()
        else:
            notify = c.choice(ERRORS)
            said = (NotifyPayload(notify, b"\0\x1f" if notify == NotifyType.INVALID_KE_PAYLOAD else b""),)
        m.respond(header, *said)

    # What happens to the victim

    def ask(self) -> None:
        c, endpoint, now = self.chance, self.victim.endpoint, self.victim.now
        handles = [v.handle for v in endpoint.views()]
        spis = sorted(self.victim.installed)
        what = c.randrange(7)
        if what in (0, 1) and spis:
            endpoint.rekey_child(c.choice(spis), now)
        elif what == 2 and handles:
            endpoint.rekey_ike(c.choice(handles), now)
        elif what == 3 and spis:
            endpoint.delete_child(c.choice(spis), now, Cause.OPERATOR)
        elif what == 4 and handles:
            endpoint.check_liveness(c.choice(handles), now)
        elif what == 5 and handles:
            child = c.choice(endpoint._table.policy.peers[0].children)
            endpoint.create_child(c.choice(handles), ChildRequest(child.key, 0, child.local, child.remote), now)
        elif spis:
            endpoint.first_inbound(c.choice(spis), now)

    def wait(self) -> None:
        self.sort(self.victim.wait(self.chance.choice((0.0, 0.01, 0.5, 3.0, 12.0, 70.0))))

    def hold(self) -> None:
        self.victim.hold_jobs = True

    def jobs(self) -> None:
        self.chance.shuffle(self.victim._held)
        if self.chance.random() < 0.5:
            kept, self.victim._held = self.victim._held[1:], self.victim._held[:1]
            self.victim._run_jobs()
            self.victim._held = kept
        else:
            self.sort(self.victim.run_jobs())

    def reload(self) -> None:
        if self.chance.random() < 0.4:
            self.victim.endpoint.replace_policy(self.policy(), self.victim.now)

    def adopt(self) -> None:
        if "b" not in self.victim.established() and not self.victim.hold_jobs:
            self.login()

    def again(self) -> None:
        m = self.mallory
        if m.inbox:
            m.inbox.append(self.chance.choice(m.inbox))

    # The end

    def rest(self) -> None:
        """Let the victim finish what it began: every request is answered, in vain."""
        self.sort(self.victim.run_jobs())
        for _ in range(40):
            for m in self.ours:
                while (found := m.oldest()) is not None:
                    header, asked = found
                    back = find(asked, NotifyType.COOKIE2)
                    empty: Payloads = (back,) if back else ()
                    m.respond(header, *(empty if header.exchange == INFO else
                                        (NotifyPayload(NotifyType.TEMPORARY_FAILURE),)))
            self.sort(self.victim.wait(2.0))
            assert not self.victim.faults, self.victim.faults
        self.victim.wait(0.0)
        self.victim.check()
        self.balance()

    def balance(self) -> None:
        """Each pair came and went once (G6), and whatever is there is about to be rekeyed or to go."""
        log = self.victim.log
        moved = [r for r in log if isinstance(r, ChildMoved)]
        came = [r.pair.spi_in for r in log if isinstance(r, ChildUp)] + [r.pair.spi_in for r in moved]
        went = [r.spi_in for r in log if isinstance(r, ChildGone)] + [r.old_spi_in for r in moved]
        assert len(set(came)) == len(came)
        assert len(set(went)) == len(went)
        assert set(went) <= set(came)
        sessions = {spi: sa.session for spi, sa in self.victim.endpoint._table.by_child.items()}
        assert set(came) - set(went) <= set(sessions), "reported up, and not there"
        for spi, session in sessions.items():
            child = session.children[spi]
            if spi not in set(came) - set(went):
                assert child.state not in (ChildState.UP, ChildState.REKEYING), "there, and not reported"
            elif child.state is ChildState.UP:
                assert session.timers.get(Timer(TimerKind.REKEY_CHILD, spi)) or rekey_of(session, child), "forgotten"
            elif child.state is ChildState.REPLACED:
                assert any(c.replaces == spi for c in session.children.values()), "replaced by nothing"

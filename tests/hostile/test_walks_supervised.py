"""The walks of test_walks.py against a whole gateway: what its supervisor thinks that there is, is there."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ipsecd.effects import Resolve, SendIke
from ipsecd.gateway import Gateway
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.session import Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.policy import Policy
from ipsecd.sa import ChildKey, Endpoint, Path
from tests.hostile.test_walks import Walk, walk
from tests.support.exchange import A, B
from tests.support.pki import WALL_NOW
from tests.support.seeded_rng import SeededRng
from tests.support.victim import Victim

ORDINARY, PROOF, ELSEWHERE = 40, 2000, 100_000
ELSE = "198.51.100.7"                   # where traffic of the peer may come from


@pytest.mark.parametrize("part", range(4))
def test_supervisor_knows_each_pair_whatever_the_peer_does(part: int) -> None:
    for seed in range(part, ORDINARY, 4):
        walk(SupervisedWalk(seed))


@pytest.mark.long
def test_supervisor_knows_each_pair_whatever_the_peer_does_for_long() -> None:
    for seed in range(ELSEWHERE, ELSEWHERE + PROOF):
        walk(SupervisedWalk(seed))


class Front:
    """A gateway in the shape of the endpoint that a victim has; its names resolve at once, mostly."""

    def __init__(self, gateway: Gateway, victim: SupervisedVictim) -> None:
        self.gateway = gateway
        self._victim = victim
        for name in ("work_done", "handle_timeout", "next_deadline", "replace_policy"):
            setattr(self, name, getattr(gateway, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gateway.endpoint, name)

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        self.gateway.ike_received(datagram, path, now)

    def take_effects(self) -> list[object]:
        rest: list[object] = []
        for effect in self.gateway.take_effects():
            if isinstance(effect, Resolve):
                found = effect.names if self._victim.chance.random() < 0.8 else ()
                port = 500 if effect.handle is None else 4500
                self.gateway.resolved(effect.peer, tuple(Path(Endpoint(A, port), Endpoint(n, 500)) for n in found),
                                      self._victim.now, effect.handle)
            else:
                rest.append(effect)
        return rest


class SupervisedVictim(Victim):
    """A whole gateway, whose own attempts reach nobody."""

    def __init__(self, policy: Policy, *, seed: object) -> None:
        super().__init__(policy, seed=seed)
        self.chance = random.Random(f"victim {seed}")
        gateway = Gateway(policy, SeededRng((seed, "victim")), now=self.now, last_inbound=self.seen_at.get,
                          wall_clock=lambda: WALL_NOW)
        self.endpoint = Front(gateway, self)  # type: ignore[assignment]
        gateway.start(self.now, frozenset((A,)))
        self.drain()

    def drain(self) -> list[SendIke]:
        sent = super().drain()
        headers = [IkeHeader.parse(s.datagram) for s in sent]
        return [s for s, h in zip(sent, headers, strict=True)
                if h.exchange != ExchangeType.IKE_SA_INIT or h.is_response]


class SupervisedWalk(Walk):
    """Operators, the engine and reloads ask the gateway."""

    def make_victim(self, seed: int) -> Victim:
        return SupervisedVictim(self.policy(), seed=seed)

    @property
    def gateway(self) -> Gateway:
        front = self.victim.endpoint
        assert isinstance(front, Front)
        return front.gateway

    def ask(self) -> None:
        c, gateway, now = self.chance, self.gateway, self.victim.now
        child, what = c.choice(("lan", "voice", None)), c.randrange(9)
        if what < 4:
            (gateway.rekey, gateway.down, gateway.up, gateway.up)[what]("b", child, now)
        elif what == 8:
            gateway.acquire(ChildKey("b", child or "lan"), now)
        elif self.victim.installed:
            spi = c.choice(sorted(self.victim.installed))
            if what == 7:
                gateway.peer_address(spi, Path(Endpoint(A, 4500), Endpoint(c.choice((B, ELSE)), 4500)), now)
            else:
                (gateway.soft_lifetime, gateway.hard_lifetime, gateway.first_inbound)[what - 4](spi, now)

    def balance(self) -> None:
        self.gateway.view()
        sessions = {spi: sa.session for spi, sa in self.gateway.endpoint._table.by_child.items()}
        known = {spi for peer in self.gateway._peers.values() for line in peer.lines.values() for spi in line.pairs}
        assert known <= set(sessions), "the supervisor thinks that it is there"
        for spi in set(sessions) - known:
            sends = sessions[spi].children[spi].state in (ChildState.UP, ChildState.REKEYING)
            assert not sends or going(sessions[spi], spi), "the supervisor knows nothing of it"


def going(session: Session, spi: int) -> bool:
    """Return whether a Delete waits for a pair, or for one that it is the successor of."""
    befores, found = {c.successor: c for c in session.children.values()}, session.children.get(spi)
    while found is not None:
        if any(isinstance(t, ChildDelete) and t.is_of(found) for t in session.tasks()):
            return True
        found = befores.get(found.spi_in)
    return False

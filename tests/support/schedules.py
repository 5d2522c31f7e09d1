"""Random schedules: both gateways rekey, delete, add, reload, stop and restart, on a network that does its worst.

A world lives through many schedules, each a few steps and a `settle`: the network heals, both ends get the same policy
again, and within a time they must agree on exactly one IKE SA and one pair for each child.  A step is a plain tuple,
so a failure prints as a list that `replay` takes, after `shrink` has left out what it does not need.

    python -m tests.support.schedules --count 100000 --jobs 2       many worlds, on several processes
    python -m tests.support.schedules --world 4711                  one again
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ipsecd.causes import Cause
from ipsecd.effects import InstallSa, RemoveSa, UseOutbound
from ipsecd.events import LocalFault
from ipsecd.ike.requester import HALF_OPEN_LIFE_S
from ipsecd.policy import Policy
from ipsecd.sa import ChildKey, Endpoint, Path
from tests.support.exchange import A, at_rest, ike, ike_policy, policy_a, policy_b
from tests.support.gateways import Node, Pair
from tests.support.sim import WORKER_FAILED, Host, Nat

PER_WORLD = 25              # schedules that one pair of gateways lives through
STEPS = (2, 6)              # of a schedule
SETTLE_S = 200.0            # a request is given up after 165 s, and a new attempt takes a few seconds more
CALM_SETTLE_S = HALF_OPEN_LIFE_S + 5.0  # where nothing was lost: an attempt given up before IKE_AUTH goes silently
QUIET_S = 6.0               # agreement must last: longer than old pairs linger
PAUSES_S = (0.0, 0.0, 0.005, 0.01, 0.02, 0.05, 0.3, 2.5)

CALM = ("rekey", "rekey", "rekey", "rekey_ike", "rekey_ike", "delete", "delete", "reload", "renew", "down", "ping")
ROUGH = (*CALM, "delete_ike", "restart", "stop", "loss", "partition", "sleep", "clock", "rebind", "impair", "ping")
POINTS, KINDS = ("send", "receive", "work", "timer"), ("drop", "delay", "repeat", "corrupt")


class Step(NamedTuple):
    """One thing that one end does, or that happens to it, and the seconds until the next."""

    what: str
    host: str = "a"
    child: str = "lan"
    number: int = 0
    pause: float = 0.0


class World(Pair):
    """Two gateways, packets on their pairs, and who knows which key since when."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"world {seed}")
        self.calm = chance.random() < 0.5
        self.round_trip_s = 2 * (latency := chance.choice((0.005, 0.02, 0.1)))
        nat = None if self.calm or chance.random() < 0.6 else Nat(A)
        self.children = {"a": ["lan", "voice"], "b": ["lan", "voice"]}
        self.renewed = {"a": 0, "b": 0}
        super().__init__(self.policy("a"), self.policy("b"), seed=seed, latency_s=latency, nat=nat)
        self.a.work_s, self.b.work_s = (chance.choice((0.0, 0.0, 0.003, 0.05)) for _ in range(2))
        # Key exchanges at both ends are part of a round trip.
        self.slack_s = 1e-6 + self.round_trip_s + 2 * max(self.a.work_s, self.b.work_s)
        self.unknown: dict[int, tuple[float, float]] = {}  # since and until when, by inbound SPI of the end that sends
        self.excused = not self.calm
        self.net.watch = self._watch
        self.start(0.0)

    def policy(self, name: str) -> Policy:
        """Return what an end's configuration says at the moment."""
        proposals = ike("aes256gcm16-prfsha256-x25519-ecp256"), ike("aes256gcm16-prfsha256-x25519")
        make = policy_a if name == "a" else policy_b
        return make(*self.children[name], ike=ike_policy(dpd_s=10, proposals=(proposals[self.renewed[name] % 2],)))

    # What can happen

    def do(self, step: Step) -> None:
        """Take a step, and let its pause go by."""
        getattr(self, f"_{step.what}")(self.net.hosts[step.host], step)
        self.net.run(step.pause)

    def _rekey(self, host: Host, step: Step) -> None:
        self.gateway(host).rekey(self._peer(host), step.child, self.net.now)
        host.collect()

    def _rekey_ike(self, host: Host, step: Step) -> None:
        self.gateway(host).rekey(self._peer(host), None, self.net.now)
        host.collect()

    def _delete(self, host: Host, step: Step) -> None:
        spi = host.outbound.get((ChildKey(self._peer(host), step.child), 0))
        if spi is not None:
            self.gateway(host).hard_lifetime(spi, self.net.now)
            host.collect()

    def _delete_ike(self, host: Host, step: Step) -> None:
        endpoint = self.gateway(host).endpoint
        for handle in [h for h, sa in endpoint._table.current.items() if sa.session.established]:
            endpoint.delete_ike(handle, self.net.now, Cause.EXPIRED)
        self.gateway(host).handle_timeout(self.net.now)
        host.collect()

    def _reload(self, host: Host, step: Step) -> None:
        mine = self.children[step.host]
        mine.remove("guest") if "guest" in mine else mine.append("guest")
        self.reload(host, self.policy(step.host))

    def _renew(self, host: Host, step: Step) -> None:
        self.renewed[step.host] += 1                # another proposal: make before break of the IKE SA
        self.reload(host, self.policy(step.host))

    def _down(self, host: Host, step: Step) -> None:
        self.gateway(host).down(self._peer(host), step.child, self.net.now)
        host.collect()

    def _ping(self, host: Host, step: Step) -> None:
        spi = host.outbound.get((ChildKey(self._peer(host), step.child), 0))
        if spi is not None:
            self._packet(host, spi)

    def _restart(self, host: Host, step: Step) -> None:
        self.excused = True
        self.restart(host)

    def _stop(self, host: Host, step: Step) -> None:
        self.excused = True
        self.gateway(host).shutdown(self.net.now)
        host.collect()
        self.restart(host, self.policy(step.host))

    def _loss(self, host: Host, step: Step) -> None:
        self.excused = True
        self.net.loss, self.net.duplicate, self.net.reorder_s = ((0.1, 0.0, 0.0), (0.3, 0.2, 0.1), (0.0, 0.3, 0.5),
                                                                 (0.5, 0.0, 0.0))[step.number % 4]

    def _partition(self, host: Host, step: Step) -> None:
        self.excused = True
        self.net.drop(lambda datagram: True)
        self.net.run((1.0, 5.0, 15.0, 45.0)[step.number % 4])
        self.net.heal()

    def _sleep(self, host: Host, step: Step) -> None:
        self.excused = True
        # Not before the end of a longer sleep: what is due then was put off to its end.
        host.asleep_until = max(host.asleep_until, self.net.now + (0.5, 2.0, 40.0, 600.0)[step.number % 4])

    def _clock(self, host: Host, step: Step) -> None:
        self.net.wall_offset += (-3600, 3600, -3e8, 3e8)[step.number % 4]

    def _rebind(self, host: Host, step: Step) -> None:
        if self.a.nat is not None:
            self.excused = True
            self.a.nat.rebind()

    def _impair(self, host: Host, step: Step) -> None:
        self.excused = True
        host.impair(POINTS[step.number // 4 % 4], KINDS[step.number % 4])

    # The end of a schedule

    def _settle(self, host: Host, step: Step) -> None:
        """Heal all, give both ends one policy, and see them agree and rest."""
        self.net.heal()
        self.net.duplicate = self.net.reorder_s = 0.0
        for end in (self.a, self.b):
            end.impairments.clear()
            if self.children[end.name][2:] or self.gateway(end).view().peers[0].down:
                self.children[end.name][2:] = []
                self.reload(end, self.policy(end.name))
                self.gateway(end).up(self._peer(end), None, self.net.now)
                end.collect()
        begin = max(self.net.now, self.a.asleep_until, self.b.asleep_until)
        limit = SETTLE_S if self.excused else CALM_SETTLE_S
        self.net.run(begin - self.net.now + 0.5)
        agreed = False                              # a rekey that was put off may still run, and ends likewise
        while (wrong := self.disagreement()) is not None or not agreed:
            assert wrong is None or self.net.now - begin < limit, f"no agreement after {limit:.0f} s: {wrong}"
            agreed = wrong is None
            self.net.run(QUIET_S if agreed else 2.0)
        for end in (self.a, self.b):
            faults = [f for f in end.events(LocalFault) if WORKER_FAILED not in f.error]
            assert not faults, faults
            end.log.clear()
        self.net.sent.clear()
        self.excused = not self.calm
        self.unknown.clear()

    def disagreement(self) -> str | None:
        """Return what is not yet as it should be."""
        try:
            self.check("lan", "voice")
            at_rest(self.gateway(self.a).endpoint, self.gateway(self.b).endpoint)
        except (AssertionError, StopIteration) as error:
            return str(error) or "not at rest"
        return None

    # Packets, and who knows which key

    def _peer(self, host: Host) -> str:
        return "b" if host is self.a else "a"

    def _watch(self, host: Host, effect: object) -> None:
        now = self.net.now
        for since, until in self.unknown.values():
            assert self.excused or now <= until, f"a key in use was unknown to the other end for {now - since:.3f} s"
        if not isinstance(effect, InstallSa | UseOutbound | RemoveSa):
            return
        if isinstance(effect, UseOutbound):
            self._packet(host, effect.spi_in)
        sent_on = [(end, slot, spi) for end in (self.a, self.b) for slot, spi in end.outbound.items()]
        self.unknown = {spi: self.unknown.get(spi) or (now, now + self._grace(end, *slot))
                        for end, slot, spi in sent_on if not self._is_known(end, spi)}

    def _grace(self, host: Host, child: ChildKey, slot: int) -> float:
        """Return how long a key may be unknown: a round trip.

        Whoever took all of a child down wants no more of it, and its Delete may wait a round trip for the answer to
        what is ahead of it, with a window of one (RFC 7296 2.3).
        """
        other = self.net.hosts[self._peer(host)]
        mine = ChildKey(self._peer(other), child.child)
        return self.slack_s if (mine, slot) in other.outbound else self.slack_s + self.round_trip_s

    def _is_known(self, host: Host, spi: int) -> bool:
        mine = host.pairs.get(spi)
        if mine is None:
            return True
        twin = self.net.hosts[self._peer(host)].pairs.get(mine.outbound.spi)
        return twin is not None and twin.inbound.encr_key == mine.outbound.encr_key

    def _packet(self, host: Host, spi: int) -> None:
        """Send a data packet on a pair: the other end's engine reports what it sees."""
        pair, other = host.pairs[spi], self.net.hosts[self._peer(host)]
        source = Endpoint(host.address, 4500)
        if host.nat is not None:
            source = host.nat.leave_from(source)
        if not self.net.carries():
            return

        def arrive() -> None:
            if other.asleep:
                return
            local, gateway = Endpoint(other.address, 4500), self.gateway(other)
            if pair.outbound.spi not in other.pairs:
                gateway.unknown_spi(Path(local, source), pair.outbound.spi, self.net.now)
            else:
                node = other.endpoint
                assert isinstance(node, Node)
                node.heard[pair.outbound.spi] = self.net.now
                gateway.first_inbound(pair.outbound.spi, self.net.now)
                gateway.peer_address(pair.outbound.spi, Path(local, source), self.net.now)
            other.collect()

        self.net.after(self.net.latency_s, arrive)


def schedule(chance: random.Random, *, calm: bool) -> list[Step]:
    """Draw the steps of one schedule."""
    steps = [Step(chance.choice(CALM if calm else ROUGH), chance.choice("ab"), chance.choice(("lan", "voice")),
                  chance.randrange(16), chance.choice(PAUSES_S)) for _ in range(chance.randint(*STEPS))]
    return [*steps, Step("settle")]


def steps_of(seed: int) -> list[Step]:
    """Return all that a world lives through; its first `settle` is the start."""
    calm, chance = World(seed).calm, random.Random(f"steps {seed}")
    return [Step("settle")] + [s for _ in range(PER_WORLD) for s in schedule(chance, calm=calm)]


def replay(seed: int, steps: Sequence[Step | tuple[object, ...]]) -> None:
    """Take the steps in the world of this seed; raises AssertionError where the ends do not agree."""
    world = World(seed)
    for step in steps:
        world.do(Step(*step))  # type: ignore[arg-type]


def why_failed(seed: int, steps: Sequence[Step]) -> str | None:
    """Return what went wrong, or None."""
    try:
        replay(seed, steps)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def shrink(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Leave out what the failure does not need: halves, quarters and so on down to single steps."""
    kept, size = list(steps), max(1, len(steps) // 2)
    while True:
        start, shorter = 0, False
        while start < len(kept):
            rest = kept[:start] + kept[start + size:]
            if fails(rest):
                kept, shorter = rest, True
            else:
                start += size
        if size == 1 and not shorter:
            return kept
        size = max(1, size // 2)


def explain(seed: int) -> str | None:
    """Live a world through; return the shortest schedule found that fails, as code, or None."""
    steps = steps_of(seed)
    if why_failed(seed, steps) is None:
        return None
    least = shrink(steps, lambda rest: why_failed(seed, rest) is not None)
    lines = "".join(f"\n    {tuple(step)}," for step in least)
    return f"world {seed}: {why_failed(seed, least)}\nreplay({seed}, [{lines}\n])"


def failures(seeds: Sequence[int], *, jobs: int = 1, most: int = 5) -> list[str]:
    """Live these worlds through, on several processes, up to the first few failures; return them, explained."""
    if jobs == 1:
        found = map(_live, seeds)
        return [text for text in found if text is not None][:most]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        result = []
        for text in pool.imap_unordered(_live, seeds, chunksize=4):
            if text is not None:
                result.append(text)
                if len(result) == most:
                    break
        return result


def _live(seed: int) -> str | None:
    gc.collect()
    gc.disable()                                    # worlds are small, and go as a whole
    try:
        return explain(seed)
    finally:
        gc.enable()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.schedules")
    parser.add_argument("--count", type=int, default=2500, help="of schedules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--world", type=int, help="this one only")
    options = parser.parse_args()
    seeds = range(options.first, options.first + -(-options.count // PER_WORLD))
    begin = time.monotonic()
    found = failures([options.world] if options.world is not None else seeds, jobs=options.jobs)
    print(*found, sep="\n\n")
    taken = f"{len(seeds) * PER_WORLD} schedules in {time.monotonic() - begin:.0f} s"
    print(f"stopped within {taken}: {len(found)} failures" if found else f"{taken}: all agree")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

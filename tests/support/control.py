"""A control server on a real unix socket, around a service that answers from values; and answers to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ipsecd.causes import Cause, Failure
from ipsecd.control import schema
from ipsecd.control.authorize import Authority
from ipsecd.control.server import ControlServer
from ipsecd.control.service import UnknownName
from ipsecd.control.stream import EventHub
from ipsecd.events import Event

NO_PROPOSAL = Failure(Cause.NO_PROPOSAL, ours="aes256gcm16-prfsha384-x25519", theirs="aes128-sha256-modp2048",
                      notify="NO_PROPOSAL_CHOSEN")
_T = TypeVar("_T")


def status_answer(*peers: schema.PeerView) -> schema.StatusAnswer:
    gateway = schema.GatewayView(version="0.1.0", engine="reference", uptime_s=266400.0, interface="ipsec0",
                                 guard=schema.GuardView(installed=True))
    config = schema.ConfigView(file="/etc/ipsecd/ipsecd.yaml", generation=3, age_s=7200.0)
    return schema.StatusAnswer(gateway=gateway, config=config, peers=list(peers or (peer_up(), peer_failing())))


def peer_up(name: str = "hq", identity: str = "hq.example.net") -> schema.PeerView:
    path = "192.0.2.1:4500 -> 203.0.113.7:4500"
    sa = schema.SaView(spi_in="c0ffee01", spi_out="0badcafe", suite="aes256gcm16-x25519", esn=True, replay_window=1024,
                       ts_local=["10.1.0.0/16"], ts_remote=["10.2.0.0/16"], path=path, age_s=725.0, rekey_in_s=2400.0,
                       expires_in_s=2700.0)
    traffic = schema.Traffic(packets_in=1200, bytes_in=1_258_291, packets_out=900, bytes_out=840)
    child = schema.ChildView(name="office", state="up", start="always", local=["10.1.0.0/16"], remote=["10.2.0.0/16"],
                             sas=[sa], traffic=traffic, path_mtu=1438)
    ike = schema.IkeView(ike="0011223344556677:8899aabbccddeeff", state="established", role="initiator",
                         suite="aes256gcm16-prfsha384-x25519", local_identity="branch.example.net",
                         remote_identity=identity, path=path, nat="local", age_s=3725.0, rekey_in_s=10000.0)
    return schema.PeerView(name=name, state="up", addresses=["hq.example.net"], remote_address="203.0.113.7:4500",
                           local_address="192.0.2.1:4500", nat="local", path_mtu=1500, ike=[ike], children=[child])


def peer_failing(name: str = "lab") -> schema.PeerView:
    child = schema.ChildView(name="rack", state="waiting", start="always", local=["10.1.0.0/16"],
                             remote=["10.3.0.0/16"], held_packets=4)
    return schema.PeerView(name=name, state="waiting", waiting_for=schema.Wait(why="next attempt", in_s=12.0),
                           addresses=["198.51.100.9"], attempts=7, children=[child],
                           last_error=schema.Error.of(NO_PROPOSAL, 3.0))


@dataclass
class FakeService:
    """Answers from its fields and notes what was asked; `gate` holds up and down until it is set."""

    answer: schema.StatusAnswer = field(default_factory=status_answer)
    reload_answer: schema.ReloadAnswer = field(
        default_factory=lambda: schema.ReloadAnswer(ok=True, changes=["peer lab: added"], generation=4))
    asked: list[tuple[object, ...]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    finished: int = 0
    fault: Exception | None = None

    async def status(self, peer: str | None = None) -> schema.StatusAnswer:
        if self.fault:
            raise self.fault
        peers = [p for p in self.answer.peers if peer in (None, p.name)]
        return self.answer.model_copy(update={"peers": peers})

    async def up(self, peer: str, child: str | None, *, wait: bool) -> schema.CommandAnswer:
        return await self._command("up", peer, child, wait)

    async def down(self, peer: str, child: str | None, *, wait: bool) -> schema.CommandAnswer:
        return await self._command("down", peer, child, wait)

    async def rekey(self, peer: str, child: str | None, *, wait: bool) -> schema.CommandAnswer:
        return await self._command("rekey", peer, child, wait)

    async def _command(self, name: str, peer: str, child: str | None, wait: bool) -> schema.CommandAnswer:
        self.asked.append((name, peer, child, wait))
        if self.gate:
            await self.gate.wait()
        self.finished += 1
        if peer == "lab" and wait:
            outcome = schema.Outcome(peer=peer, child=child, result="failed", failure=schema.Error.of(NO_PROPOSAL))
            return schema.CommandAnswer(ok=False, outcomes=[outcome])
        if peer not in ("hq", "lab"):
            raise UnknownName(f"no peer {peer}")
        return schema.CommandAnswer(ok=True, outcomes=[schema.Outcome(peer=peer, child=child, result=name)])

    async def plan(self, text: str | None, filename: str, *, may_open_files: bool) -> schema.PlanAnswer:
        self.asked.append(("plan", text, filename, may_open_files))
        if text is not None and "bad" in text:
            return schema.PlanAnswer(ok=False, problems=[f"{filename}:1:1: bad", f"{filename}:2:1: also bad"])
        return schema.PlanAnswer(ok=True)

    async def reload(self, *, wait: bool) -> schema.ReloadAnswer:
        self.asked.append(("reload", wait))
        return self.reload_answer

    async def policy(self, query: schema.PolicyQuery) -> schema.PolicyAnswer:
        self.asked.append(("policy", query))
        verdicts = [schema.EntryVerdict(number=1, name="printers", action="bypass", matched=False,
                                        why="10.2.0.7 is not in 10.2.9.0/24"),
                    schema.EntryVerdict(number=2, name="hq/office", action="protect", matched=True, why="matches")]
        return schema.PolicyAnswer(action="protect", entry=2, name="hq/office", peer="hq", child="office",
                                   spi="0badcafe", verdicts=verdicts)

    async def doctor(self) -> schema.DoctorAnswer:
        return schema.DoctorAnswer(checks=[
            schema.Check(name="tun", result="ok", detail="/dev/net/tun opens"),
            schema.Check(name="forwarding", result="failed", detail="off", hint="sysctl net.ipv4.ip_forward=1")])


@dataclass
class Running:
    """A served control socket."""

    path: Path
    service: FakeService
    hub: EventHub
    events: list[Event]
    server: ControlServer


@asynccontextmanager
async def serving(path: Path, service: FakeService | None = None, *, uids: frozenset[int] = frozenset(),
                  idle_s: float = 30.0) -> AsyncIterator[Running]:
    """Serve until the block ends."""
    service = service or FakeService()
    hub, events = EventHub(), list[Event]()
    server = ControlServer(service, hub, Authority(uids), events.append, idle_s=idle_s)
    server.bind(path)
    task = asyncio.create_task(server.serve())
    await asyncio.sleep(0)          # a task that never began would not clean up
    try:
        yield Running(path, service, hub, events, server)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def run_with_server(path: Path, use: Callable[[Running], Awaitable[_T]], service: FakeService | None = None,
                    **options: object) -> _T:
    """Run `use` against a served socket in a loop of its own, and return its value."""
    async def body() -> _T:
        async with serving(path, service, **options) as running:     # type: ignore[arg-type]
            return await use(running)
    return asyncio.run(body())

"""Commands of the control socket over a daemon whose policy changes while they wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ipsecd.control.schema import StatusAnswer
from ipsecd.control.service import UnknownName
from ipsecd.engine.contract import EngineStats
from ipsecd.gateway import Gateway
from ipsecd.policy import Policy
from ipsecd.runtime import clock
from ipsecd.service import PEERS_A_TURN, DaemonService
from tests.support.exchange import policy, policy_a
from tests.support.seeded_rng import SeededRng


class Reloaded(DaemonService):
    """The command was accepted under the old policy; status shows the new one."""

    def __init__(self, peers: list[Any]) -> None:
        driver = SimpleNamespace(enter=lambda call: None)
        super().__init__(SimpleNamespace(policy=policy_a(), driver=driver))  # type: ignore[arg-type]
        self._shown = peers

    async def status(self, peer: str | None = None) -> Any:
        return SimpleNamespace(peers=self._shown)


@pytest.mark.parametrize("command", ["up", "down"])
def test_command_for_a_peer_that_a_reload_took_away_says_so(command: str) -> None:
    service = Reloaded([])
    with pytest.raises(UnknownName, match="is gone"):
        asyncio.run(getattr(service, command)("b", None, wait=True))


def test_child_that_a_reload_took_away_is_not_called_up() -> None:
    service = Reloaded([SimpleNamespace(name="b", children=[], last_error=None)])
    with pytest.raises(UnknownName, match="is gone"):
        asyncio.run(service.up("b", "lan", wait=True))


def test_status_of_many_peers_lets_the_loop_go_on_and_of_one_is_that_one() -> None:
    peers = [replace(policy_a().peers[0], name=f"b{number:02}") for number in range(40)]
    turns = 0

    async def body() -> tuple[StatusAnswer, StatusAnswer, StatusAnswer]:
        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        service = DaemonService(daemon(policy(*peers)))
        return await service.status(), await service.status("b07"), await service.status("nobody")

    everybody, one, nobody = asyncio.run(body())
    assert [p.name for p in everybody.peers] == [p.name for p in peers]
    assert turns >= len(peers) // PEERS_A_TURN
    assert [p.name for p in one.peers] == ["b07"]
    assert one.gateway.overflows == {"udp500_192.0.2.1": 3}
    assert nobody.peers == []


def daemon(configured: Policy) -> Any:
    """Return what status reads of a daemon."""
    async def counters() -> dict[str, Any]:
        return {}

    gateway = Gateway(configured, SeededRng(1), now=clock.now(), last_inbound=lambda _: None)
    return SimpleNamespace(
        policy=configured, gateway=gateway, started_at=0.0, applied_at=0.0, generation=1, problems=(), repairs=0,
        path="ipsecd.yaml",
        engine=SimpleNamespace(name="reference", stats=lambda: EngineStats({}, {}, {}, {})),
        ports=SimpleNamespace(overflows={"udp500_192.0.2.1": 3}),
        driver=SimpleNamespace(drops={}, pairs={}, past={}, past_drops={}),
        lag=SimpleNamespace(percentiles=lambda: (0.0, 0.0, 0.0)),
        router=SimpleNamespace(counters=counters, plan=None), advice=SimpleNamespace(warnings=()),
        sizes=SimpleNamespace(inner={}, outer={}), loaded=SimpleNamespace(places=SimpleNamespace(of=lambda *_: "")))

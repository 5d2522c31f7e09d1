"""Commands of the control socket over a daemon whose policy changes while they wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ipsecd.control.service import UnknownName
from ipsecd.service import DaemonService
from tests.support.exchange import policy_a


class Reloaded(DaemonService):
    """The command was accepted under the old policy; status shows the new one."""

    def __init__(self, peers: list[Any]) -> None:
        driver = SimpleNamespace(enter=lambda call: None)
        super().__init__(SimpleNamespace(policy=policy_a(), driver=driver))  # type: ignore[arg-type]
        self._shown = peers

    async def status(self) -> Any:
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

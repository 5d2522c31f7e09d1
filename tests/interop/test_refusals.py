"""What is configured wrong on one side: the cause is named, trying goes on, and the corrected other side is enough."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.world import ESP, IKE, World
from tests.lab.rig import LeakProbe, ping
from tests.lab.swan import LEFT_ID, PSK, RIGHT_ID
from tests.support.netns import LAB, CommandError, eventually

pytestmark = [*LAB, pytest.mark.interop]

OTHER_PSK = "another-key-of-more-than-sixteen-bytes"
AS_INITIATOR = {
    "psk": ({"psk": OTHER_PSK}, {"peer_refused_auth", "authentication_failed"}),
    "ike": ({"ike": "aes256gcm16-prfsha384-modp2048"}, {"no_proposal", "ke_refused"}),
    "esp": ({"esp": "aes128-sha256"}, {"no_child_proposal"}),
    "selectors": ({"remote_ts": "10.77.0.0/16"}, {"ts_unacceptable"}),
    "our identity": ({"remote_id": "somebody.example.net"}, {"peer_refused_auth"}),
    "their identity": ({"local_id": "somebody.example.net"}, {"wrong_identity", "peer_refused_auth"}),
    "version": ({"version": "1"}, {"ikev1_only", "no_proposal", "peer_version"}),
}
AS_RESPONDER = {
    "psk": ({"psk": OTHER_PSK}, {"authentication_failed"}),
    "ike": ({"ike": "aes256gcm16-prfsha384-modp2048"}, {"no_proposal", "ke_refused"}),
    "esp": ({"esp": "aes128-sha256"}, {"no_child_proposal"}),
    "selectors": ({"remote_ts": "10.77.0.0/16"}, {"ts_unacceptable"}),
    "their identity": ({"local_id": "somebody.example.net"}, {"unknown_identity", "wrong_identity"}),
    "version": ({"version": "1"}, {"ikev1_only", "peer_version"}),
}
RIGHT = {"psk": PSK, "ike": IKE, "esp": ESP, "local_id": RIGHT_ID, "remote_id": LEFT_ID, "version": "2"}


@pytest.mark.parametrize("fault", AS_INITIATOR)
def test_refusal_by_strongswan_names_its_cause_and_trying_goes_on(world: World, fault: str) -> None:
    change, causes = AS_INITIATOR[fault]
    world.separate(theirs=change)
    world.begin()
    with LeakProbe(world.rig.a, world.rig.b):
        told = error(world)
        assert told["cause"] in causes, told
        assert told["summary"] and told["hint"]
        correct(world)
        world.ours.wait_up(within_s=70)
    ping(world.rig.a.host, world.rig.b.host4)
    world.rig.witness.assert_clean()


@pytest.mark.parametrize("fault", AS_RESPONDER)
def test_refusal_of_strongswan_names_its_cause_and_the_next_try_is_heard(world: World, fault: str) -> None:
    change, causes = AS_RESPONDER[fault]
    world.separate(theirs=change, start="listen")
    world.begin()
    before = world.now()
    with pytest.raises(CommandError):
        world.swan.initiate(within_s=3)
    told = world.failures(since=before)[0]
    assert told["cause"] in causes, told
    assert told["summary"] and told["hint"]
    correct(world)
    world.swan.end_all()
    world.swan.initiate()
    world.ours.wait_up()
    ping(world.rig.b.host, world.rig.a.host4)
    world.rig.witness.assert_clean()


def test_silent_strongswan_is_named_and_heard_once_it_speaks(world: World) -> None:
    world.separate()
    world.swan.stop()
    world.begin()
    assert error(world, within_s=40)["cause"] == "peer_silent"
    world.swan.start()
    world.ours.wait_up(within_s=30)
    ping(world.rig.a.host, world.rig.b.host4)
    world.rig.witness.assert_clean()


def correct(world: World) -> None:
    a = world.rig.a
    world.swan.configure(**RIGHT, remote_ts=f"{a.prefix4},{a.prefix6}")
    world.swan.load()


def error(world: World, *, within_s: float = 15) -> dict[str, Any]:
    """Return the last error of the peer or its child, once there is one."""
    found: list[dict[str, Any]] = []

    def told() -> bool:
        peer = world.ours.peer_status()
        found[:] = [e for e in (peer["last_error"], peer["children"][0]["last_error"]) if e]
        return bool(found)
    assert eventually(told, within_s=within_s), world.ours.log()
    return found[0]

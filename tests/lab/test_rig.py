"""The rig itself, proven with strongSwan on both sides: what the labs take for granted."""

from __future__ import annotations

import pytest

from tests.lab.rig import Flood, Rig, answers, ping
from tests.lab.swan import Swan
from tests.support.netns import LAB, eventually

pytestmark = LAB


def test_rig_witness_sees_traffic_in_clear() -> None:
    with Rig() as rig:
        rig.witness.strangers()
        rig.wan.ip("route add 10.2.0.0/16 via 198.51.100.2")
        answers(rig.a.host, rig.b.host4)
        with pytest.raises(AssertionError, match=r"10\.1\.0\.10 > 10\.2\.0\.10"):
            rig.witness.assert_clean()


@pytest.mark.parametrize("nat", [False, True])
def test_rig_carries_a_tunnel_between_two_strongswans(nat: bool) -> None:
    with Rig(nat=nat) as rig:
        far = Swan(rig, rig.b, rig.a, remote="%any" if nat else "")
        near = Swan(rig, rig.a, rig.b)
        far.start()
        near.start()
        rig.witness.strangers()
        near.initiate()
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host4)
        ping(rig.a.host, rig.b.host6)
        with Flood(rig.a.host, rig.b.host, rig.b.host4) as flood:
            ping(rig.a.host, rig.b.host4, count=5)
            assert eventually(lambda: flood.sent > 100, within_s=15)
        assert flood.lost == 0
        near.stop()
        far.stop()
        rig.witness.assert_clean()
        assert rig.witness.counts()["esp"] > 100

"""The left gateway behind a NAT: port float and keepalives; tests/lab/test_healing.py has the NAT that forgets."""

from __future__ import annotations

from tests.lab.daemon import tunnel
from tests.lab.rig import NAT4, Rig, ping
from tests.support.netns import LAB, eventually

pytestmark = LAB


def test_tunnel_from_behind_a_nat_carries_both_ways_on_port_4500() -> None:
    with Rig(nat=True) as rig:
        left, right = tunnel(rig, start_right="listen")
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host4)
        ping(rig.a.host, rig.b.host6)
        assert left.peer_status()["nat"] == "local"
        assert right.peer_status()["nat"] == "remote"
        assert right.peer_status()["remote_address"].startswith(NAT4)
        rig.witness.assert_clean()


def test_gateway_behind_a_nat_keeps_the_mapping_alive() -> None:
    with Rig(nat=True) as rig:
        for daemon in tunnel(rig, start_right="listen"):
            # Every IKE message keeps the mapping too, so DPD would leave nothing to do.
            daemon.change(lambda config: next(iter(config["peers"].values())).update(ike={"dpd": "60s"}))
            daemon.reload()
        tap = rig.wan.tap("wa")
        tap.keep("udp port 4500 and udp[4:2] = 9 and udp[8] = 0xff")        # RFC 3948 2.3
        assert eventually(lambda: bool(tap.frames(outgoing=False)), within_s=25)

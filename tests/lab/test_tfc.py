"""What a stranger on the WAN can still measure: sizes and times of packets, between real daemons."""

from __future__ import annotations

from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import Rig, ping
from tests.support.netns import LAB, eventually

pytestmark = LAB


def test_padded_tunnel_shows_one_size_and_dummies_when_nothing_is_said() -> None:
    with Rig() as rig:
        left, right = (Ipsecd(rig, site, peer, config=default_config(site, peer))
                       for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        for daemon in (left, right):
            daemon.change(lambda c: office(c).update(tfc={"pad_to": 9000, "dummies_per_s": 20}))
            daemon.start()
        left.wait_up()
        right.wait_up()
        rig.witness.strangers()
        mtu = left.child_status()["path_mtu"]
        ping(rig.a.host, rig.b.host4)              # routes and sizes are those of the pair from here on
        tap = rig.wan.tap("wa")
        tap.keep("udp port 4500 and udp[8:4] != 0")
        for size in (8, 56, 700, mtu - 28):
            ping(rig.a.host, rig.b.host4, size=size, options="-M do")
            ping(rig.b.host, rig.a.host6, size=size - 20 if size > 1000 else size)
        assert eventually(lambda: all(d.child_status()["drops"].get("esp_dummy", 0) > 20 for d in (left, right)),
                          within_s=20)
        frames = tap.frames()
        assert len(frames) > 40
        assert len({len(frame) for frame in frames}) == 1
        assert left.child_status()["sas"][0]["tfc"] == "multiples of 9000 bytes, 20 dummies a second"
        rig.witness.assert_clean()


def office(config: Config) -> Config:
    found: Config = next(iter(config["peers"].values()))["children"]["office"]
    return found

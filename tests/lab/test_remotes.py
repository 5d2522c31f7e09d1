"""A head end whose one entry serves many: the branch is let in by its name, gets its own row, and nothing leaks."""

from __future__ import annotations

import pytest

from tests.lab.daemon import Ipsecd, default_config
from tests.lab.rig import Rig, answers, ping
from tests.support.netns import LAB, eventually

pytestmark = LAB


@pytest.mark.parametrize("engine", ["native", "python"])
def test_branch_of_a_pattern_carries_traffic_comes_back_and_leaves_nothing_in_clear(engine: str) -> None:
    with Rig() as rig:
        config = default_config(rig.b, rig.a)
        config["gateway"]["engine"] = engine
        entry = config["peers"].pop(next(iter(config["peers"])))
        del entry["address"]
        entry["identity"] = "*.example.net"
        entry["children"]["office"].update(start="listen", remote=["10.0.0.0/8", "2001:db8::/32"])
        config["peers"]["branches"] = entry
        head, branch = Ipsecd(rig, rig.b, rig.a, config=config), Ipsecd(rig, rig.a, rig.b)
        head.start()
        branch.start()
        branch.wait_up()
        row = "branches[branch-a.example.net]"
        ping(rig.a.host, rig.b.host4)
        ping(rig.b.host, rig.a.host4)
        assert head.peer_status(row)["children"][0]["narrowed"]
        assert head.peer_status(row)["children"][0]["traffic"]["packets_in"] >= 2
        assert head.peer_status("branches")["state"] == "listening"
        branch.kill()
        branch.start()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=30)
        head.ctl("down", row)                   # closed, and back at once, because the branch wants it
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=20)
        head.ctl("down", "branches")
        assert eventually(lambda: not any(c["sas"] for p in head.status()["peers"] for c in p["children"]), within_s=10)
        assert not answers(rig.b.host, rig.a.host4)
        branch.stop()
        assert eventually(lambda: [p["name"] for p in head.status()["peers"]] == ["branches"], within_s=10)
        rig.witness.assert_clean()

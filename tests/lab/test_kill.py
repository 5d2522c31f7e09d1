"""kill -9, stop, restart, boot: whatever happens to the daemon, nothing that is protected leaves in clear."""

from __future__ import annotations

import pytest

from tests.lab.daemon import Ipsecd, default_config, tunnel
from tests.lab.rig import LeakProbe, Rig, answers, ping, seconds_until
from tests.support.netns import LAB, eventually

pytestmark = LAB

KILLS, MANY_KILLS = 10, 50
BACK_WITHIN_S = 10           # from when the daemon answers; test_healing.py judges by the figures themselves


@pytest.mark.parametrize(("side", "kills"), [
    ("left", KILLS), ("right", KILLS), pytest.param("both", MANY_KILLS, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_killed_gateway_leaks_nothing_and_comes_back(side: str, kills: int) -> None:
    with Rig() as rig:
        left, right = tunnel(rig)
        with LeakProbe(rig.a, rig.b) as probe, LeakProbe(rig.b, rig.a):
            for number in range(kills):
                victim = left if side == "left" or (side == "both" and number % 2) else right
                sent = probe.sent
                victim.kill()
                assert not answers(rig.a.host, rig.b.host4)
                victim.start()
                seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=BACK_WITHIN_S)
                assert probe.sent > sent
                rig.witness.assert_clean()
        assert left.child_status()["state"] == right.child_status()["state"] == "up"


def test_killed_gateway_adopts_its_device() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        index = left.gateway.run("cat", "/sys/class/net/ipsec0/ifindex")
        left.kill()
        left.start()
        left.wait_up()
        assert left.gateway.run("cat", "/sys/class/net/ipsec0/ifindex") == index
        ping(rig.a.host, rig.b.host4)


def test_stopped_gateway_leaks_nothing_and_says_goodbye() -> None:
    with Rig() as rig:
        left, right = tunnel(rig, start_right="listen")
        with LeakProbe(rig.a, rig.b), LeakProbe(rig.b, rig.a):
            left.stop()
            # Told by DELETE, not by DPD.
            assert eventually(lambda: right.child_status()["state"] != "up", within_s=2)
            assert not answers(rig.a.host, rig.b.host4)
            rig.witness.assert_clean()
        left.start()
        seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=BACK_WITHIN_S)
        rig.witness.assert_clean()


@pytest.mark.parametrize("file", ["good", "broken", "absent"])
def test_boot_guard_blocks_before_the_daemon_runs(file: str) -> None:
    with Rig() as rig:
        left, right = tunnel(rig, start_right="listen")
        left.stop()
        reboot(left)
        assert not left.gateway.run("nft", "list", "ruleset").strip()
        if file == "broken":
            left.file.write_text(left.file.read_text() + "gateway: [this is no gateway\n")
        elif file == "absent":
            left.file.unlink()
        options = ("--state", str(left.socket.with_suffix(".state"))) if file == "absent" else ()
        assert left.run_to_end("--guard", "--config", str(left.file), *options) == 0
        rig.witness.strangers()
        with LeakProbe(rig.a, rig.b):
            assert not answers(rig.a.host, rig.b.host4)
            rig.witness.assert_clean()
            left.write()
            left.start()
            seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=BACK_WITHIN_S)
            rig.witness.assert_clean()
        right.stop()


def test_broken_file_ends_with_78_and_the_guard_of_the_last_policy() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig, start_right="listen")
        left.stop()
        reboot(left)
        left.change(lambda c: c["gateway"].update(interfce="ipsec0"))
        assert left.run_to_end("--config", str(left.file)) == 78
        assert "interfce" in left.said()
        rig.witness.strangers()
        with LeakProbe(rig.a, rig.b):
            assert not answers(rig.a.host, rig.b.host4)
            rig.witness.assert_clean()


def test_first_start_never_leaks_while_the_peer_is_away() -> None:
    with Rig() as rig:
        left = Ipsecd(rig, rig.a, rig.b, config=default_config(rig.a, rig.b))
        left.start()
        rig.witness.strangers()
        with LeakProbe(rig.a, rig.b):
            assert not answers(rig.a.host, rig.b.host4)
        rig.witness.assert_clean()


def reboot(daemon: Ipsecd) -> None:
    """Take away what a reboot takes away: the device, rules, routes and tables of the kernel."""
    daemon.gateway.ip("link del ipsec0")
    daemon.gateway.run("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        daemon.gateway.ip(f"{family} rule flush", f"{family} rule add priority 32766 lookup main",
                          f"{family} route flush table 7710", f"{family} route flush table 7711", check=False)

"""A thousand rekeys and a hundred reloads under a steady flood; tests/lab/test_no_loss.py has the short proofs."""

from __future__ import annotations

import pytest

from tests.lab.command import rekey_child, reload, settled
from tests.lab.daemon import Config, tunnel
from tests.lab.rig import Rig, ping
from tests.lab.torrent import Torrent
from tests.support.netns import LAB

pytestmark = LAB

RELOADS, CHILD_REKEYS = 100, 1000


def test_counters_of_a_child_never_go_back_across_rekeys() -> None:
    with Rig() as rig:
        left, _ = tunnel(rig)
        seen = []
        for _ in range(5):
            ping(rig.a.host, rig.b.host4, count=1)
            rekey_child(left)
            seen.append(left.child_status()["traffic"]["packets_in"])
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]


@pytest.mark.long
@pytest.mark.timeout(1100)
def test_a_thousand_rekeys_and_a_hundred_reloads_lose_nothing() -> None:
    with Rig() as rig:
        left, right = tunnel(rig)
        a, b = rig.a, rig.b
        with (Torrent(a.host, b.host, b.host4, packets_per_s=200) as there,
              Torrent(b.host, a.host, a.host4, packets_per_s=200) as back):
            for number in range(RELOADS):
                left.change(lambda config, number=number: rearrange(config, number))
                reload(left)
                for by in (left, right) * (CHILD_REKEYS // RELOADS // 2):
                    rekey_child(by)
        assert not there.lost and not back.lost, f"there: {there.account}; back: {back.account}"
        assert left.status()["config"]["generation"] == 1 + RELOADS
        rig.witness.assert_clean()
        left.change(lambda config: rearrange(config, 0))
        reload(left)
        settled(left, right)


def rearrange(config: Config, number: int) -> None:
    """Move, add and remove selectors and bypass entries beside the flood's own, and change timers."""
    peer = next(iter(config["peers"].values()))
    peer["ike"] = {"dpd": f"{10 + number % 3}s"}
    peer["children"].pop("lab", None)
    if number % 3:
        # Ahead of the office child, with selectors inside of its own, moving with each reload.
        lab = {"local": [f"10.1.{100 + number % 50}.0/24"], "remote": [f"10.2.{100 + number % 50}.0/24"],
               "start": "on-demand"}
        peer["children"] = {"lab": lab, **peer["children"]}
    config["policies"] = [{"name": f"entry-{number % 4}", "action": "bypass" if number % 2 else "discard",
                           "remote": [f"10.2.{200 + number % 20}.0/24"]}] if number % 4 else []

"""Session resumption (RFC 5723) between daemons: a path that was cut until both ends gave up is back by the ticket."""

from __future__ import annotations

from tests.lab.command import ike_spis, reload, settled
from tests.lab.daemon import Config, tunnel
from tests.lab.rig import Rig, answers, seconds_until
from tests.support.netns import LAB, eventually

pytestmark = LAB

BACK_S = 12.0
QUICK = {"dpd": "1s", "dpd_timeout": "2s", "resumption": True}


def quick(config: Config) -> None:
    """Notice a dead peer soon, and let it come back by a ticket."""
    next(iter(config["peers"].values()))["ike"] = QUICK


def test_path_that_was_cut_for_long_is_back_by_the_ticket() -> None:
    with Rig() as rig:
        left, right = tunnel(rig, start_right="listen")
        for daemon in (left, right):
            daemon.change(quick)
            reload(daemon)
        left.ctl("down", left.peer)
        left.ctl("up", left.peer)
        settled(left, right)
        rig.weather(100)
        told = len(left.log_file.read_text())
        assert eventually(lambda: not ike_spis(left) and not ike_spis(right), within_s=20)
        rig.weather()                       # in the first of our attempts, which has the ticket
        seconds_until(lambda: answers(rig.a.host, rig.b.host4), within_s=BACK_S)
        settled(left, right)
        rig.witness.assert_clean()
        since = left.log_file.read_text()[told:]
        assert '"exchange":"IKE_SESSION_RESUME"' in since
        assert '"exchange":"IKE_SA_INIT"' not in since

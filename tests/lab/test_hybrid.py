"""Two daemons as they come: the default proposals give a tunnel whose keys need both key exchanges broken."""

from __future__ import annotations

import json

from ipsecd.ike.crypto import kex_mlkem
from tests.lab.command import rekey_child, rekey_ike, settled
from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import Rig, ping
from tests.support.netns import LAB

pytestmark = LAB

ESP = "aes256gcm16-x25519-ke1_mlkem768"


def hybrid(config: Config) -> Config:
    """Return it with a second key exchange for the child too; for the IKE SA the defaults have one."""
    next(iter(config["peers"].values()))["children"]["office"]["esp"] = {"proposals": [ESP]}
    return config


def named(daemon: Ipsecd) -> tuple[str, str]:
    """Return the suites of the IKE SA and of the newest pair as an operator reads them."""
    peer = json.loads(daemon.ctl("status", "--json"))["peers"][0]
    pair = min(peer["children"][0]["sas"], key=lambda sa: sa["age_s"])
    return peer["ike"][-1]["suite"], pair["suite"]


def test_status_of_both_ends_names_both_key_exchanges_also_after_rekeys() -> None:
    assert kex_mlkem.SUPPORTED
    with Rig() as rig:
        left = Ipsecd(rig, rig.a, rig.b, config=hybrid(default_config(rig.a, rig.b)))
        right = Ipsecd(rig, rig.b, rig.a, config=hybrid(default_config(rig.b, rig.a)))
        for daemon in (right, left):
            daemon.start()
        for daemon in (left, right):
            daemon.wait_up()
        settled(left, right)
        rekey_child(left)
        rekey_ike(right)
        settled(left, right)
        for daemon in (left, right):
            ike, pair = named(daemon)
            assert ike == "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
            assert pair.startswith(ESP)
        ping(rig.a.host, rig.b.host4, count=1)
        rig.witness.assert_clean()

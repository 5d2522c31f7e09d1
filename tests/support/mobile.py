"""Two ends that do MOBIKE (RFC 4555), and where they and their traffic are."""

from __future__ import annotations

from dataclasses import replace

from ipsecd.events import IkeSaUp
from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import IkeGone
from ipsecd.sa import Path
from tests.support.exchange import Two, ike_policy, policy_a, policy_b
from tests.support.sim import Host, Nat

INFO = ExchangeType.INFORMATIONAL
A2, B2, VICTIM = "192.0.2.11", "203.0.113.12", "198.51.100.66"
MOBILE = ike_policy(mobike=True, dpd_s=10)


def mobile(*, seed: object = 0, nat: Nat | None = None, **changes: object) -> Two:
    """Return two ends that do MOBIKE and know their addresses."""
    ike = replace(MOBILE, **changes)                                                   # type: ignore[arg-type]
    two = Two(policy_a(ike=ike), policy_b(ike=ike), seed=seed, nat=nat)
    for host in (two.a, two.b):
        host.readdress(host.address)
    return two


def up(**changes: object) -> Two:
    two = mobile(**changes)                                                            # type: ignore[arg-type]
    two.establish()
    return two


def traffic(host: Host) -> Path:
    """Return where the only pair of a host sends."""
    pair, = host.pairs.values()
    return pair.path


def check_on(two: Two, own: str, other: str) -> None:
    """Both ends and their pairs use these addresses, on the IKE SA that was made first."""
    for host, near, far in ((two.a, own, other), (two.b, other, own)):
        view, = host.endpoint.views()
        for path in (view.path, traffic(host)):
            assert (path.local.address, path.remote.address) == (near, far), (host.name, path)
        assert len(host.events(IkeSaUp)) == 1
        assert not host.reports(IkeGone)
    two.check(children=1)


def tasks_of(host: Host) -> list[object]:
    return [t for sa in host.endpoint._table.sas.values() for t in sa.session.tasks()]

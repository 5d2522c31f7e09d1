"""Commands to a daemon of a lab over its control socket, without a program for each: a rekey then takes some 50 ms."""

from __future__ import annotations

from ipsecd.control.client import Client
from ipsecd.control.schema import Target
from tests.lab.daemon import Ipsecd
from tests.support.netns import eventually


def rekey_child(daemon: Ipsecd, child: str = "office") -> None:
    """Rekey a child of the first peer and wait for the new pair."""
    _command(daemon, "rekey", Target(peer=daemon.peer, child=child, wait=True))


def rekey_ike(daemon: Ipsecd) -> None:
    """Rekey the IKE SA of the first peer and wait for the new one."""
    _command(daemon, "rekey", Target(peer=daemon.peer, wait=True))


def reload(daemon: Ipsecd) -> None:
    """Reload and wait; fail with the errors where the file is refused."""
    answer = Client(daemon.socket).reload(wait=True)
    assert answer.ok, answer.problems


def spis(daemon: Ipsecd, child: str = "") -> set[tuple[str, str]]:
    """Return the (inbound, outbound) SPIs of a child of the first peer, or of all its children."""
    peer = Client(daemon.socket).status().peers[0]
    return {(sa.spi_in, sa.spi_out) for c in peer.children if child in ("", c.name) for sa in c.sas}


def ike_spis(daemon: Ipsecd) -> set[str]:
    """Return the IKE SAs of the first peer, less those that wait for the answer to their Delete."""
    return {ike.ike for ike in Client(daemon.socket).status().peers[0].ike if ike.state == "Established"}


def settled(left: Ipsecd, right: Ipsecd, *, children: int = 1, within_s: float = 15) -> None:
    """Wait until both sides hold one IKE SA, the same, and one pair a child, the same."""
    def same() -> bool:
        ours, theirs = spis(left), spis(right)
        return (len(ike_spis(left)) == 1 and ike_spis(left) == ike_spis(right) and len(ours) == children
                and ours == {(theirs_in, theirs_out) for theirs_out, theirs_in in theirs})

    assert eventually(same, within_s=within_s), (ike_spis(left), ike_spis(right), spis(left), spis(right),
                                                 left.ctl("status"), right.ctl("status"))


def _command(daemon: Ipsecd, name: str, target: Target) -> None:
    answer = Client(daemon.socket).command(name, target)
    assert answer.ok, answer.outcomes

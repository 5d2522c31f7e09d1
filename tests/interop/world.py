"""ipsecd on the left, strongSwan on the right, for as long as a module's tests last: both take new settings without a
restart, so that a suite costs half a second.

    with world.connected(ike="aes128-sha256-ecp256"):       # anew, with these and nothing else; afterwards: no leak
        ping(world.rig.a.host, world.rig.b.host4)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ipsecd.control.client import Client
from tests.lab.command import ike_spis, reload
from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import Rig
from tests.lab.swan import LEFT_ID, PPK, PSK, RIGHT_ID, Swan
from tests.support.netns import eventually

IKE, ESP = "aes256gcm16-prfsha384-x25519", "aes256gcm16-x25519"


class World:
    """One rig, one charon, one ipsecd."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.swan = Swan(rig, rig.b, rig.a)
        self.ours = Ipsecd(rig, rig.a, rig.b)
        self.swan.start()
        self.ours.start()
        self.ours.wait_up()

    def separate(self, **settings: object) -> None:
        """End what is up and let both sides have these settings (those of `settle`), ours still asleep."""
        self.ours.revive()
        self.swan.revive()
        self.ours.change(lambda config: peer(config).update(enabled=False))
        reload(self.ours)
        assert eventually(lambda: not self.ours.peer_status()["ike"], within_s=10)
        self.settle(**settings)                                                          # type: ignore[arg-type]
        self.swan.load()
        self.swan.end_all()
        self.swan.mark()
        self.ours.mark()

    def settle(self, *, ike: str = IKE, esp: str = ESP, family: int = 4, start: str = "always",
               ours: Config | None = None, theirs: dict[str, str] | None = None,
               local: Sequence[str] = (), remote: Sequence[str] = ()) -> None:
        """Write both configurations from the defaults and these; `ours` goes to the peer, `theirs` to the connection,
        `local` and `remote` are selectors seen from our side.
        """
        a, b = self.rig.a, self.rig.b
        local, remote = local or (a.prefix4, a.prefix6), remote or (b.prefix4, b.prefix6)
        self.swan.configure(**{
            "local": b.wan(family), "remote": a.wan(family), "ike": ike, "esp": esp, "psk": PSK, "local_id": RIGHT_ID,
            "remote_id": LEFT_ID, "ike_extra": "", "child_extra": "", "ppk": PPK, "local_ts": ",".join(remote),
            "remote_ts": ",".join(local), "version": "2", **(theirs or {})})
        entry = peer(default_config(a, b, family=family))
        entry["auth"] = peer(self.ours.config)["auth"]
        entry["ike"] = {"proposals": [ike]}
        entry["children"]["office"].update(start=start, esp={"proposals": [esp]}, local=list(local),
                                           remote=list(remote))
        entry |= ours or {}
        self.ours.change(lambda config: config["peers"].update({self.ours.peer: entry}))

    def begin(self) -> None:
        """Let ipsecd have what it was settled to, which wakes it."""
        self.rig.witness.strangers()
        reload(self.ours)

    @contextmanager
    def connected(self, *, initiator: str = "ipsecd", **settings: object) -> Iterator[None]:
        """Bring the tunnel up anew with these settings (those of `settle`); in the end nothing was seen in clear."""
        self.separate(start="always" if initiator == "ipsecd" else "listen", **settings)
        self.begin()
        if initiator == "strongswan":
            self.swan.initiate()
        self.ours.wait_up()
        yield
        self.rig.witness.assert_clean()

    def suites(self) -> tuple[str, str]:
        """Return the suites in use by name: of the IKE SA, and of the child's newest pair."""
        status = Client(self.ours.socket).status().peers[0]
        return status.ike[-1].suite, status.children[0].sas[-1].suite

    def same(self) -> bool:
        """Return whether both sides hold one IKE SA and one pair, the same."""
        ike, pairs = ike_spis(self.ours), self.pairs()
        return len(ike) == 1 and len(pairs) == 1 and self.swan.holds(ike, pairs)

    def pairs(self) -> set[tuple[str, str]]:
        """Return the (inbound, outbound) SPIs of each child's newest pair; older ones still receive for 5 s."""
        children = Client(self.ours.socket).status().peers[0].children
        newest = [min(child.sas, key=lambda sa: sa.age_s) for child in children if child.sas]
        return {(sa.spi_in, sa.spi_out) for sa in newest}

    def failures(self, *, since: str = "") -> list[dict[str, Any]]:
        """Return the failures that ipsecd reported after the event at this time."""
        events = Client(self.ours.socket).events(follow=False, level="warning")
        return [event["failure"] for event in events if "failure" in event and event["time"] > since]

    def now(self) -> str:
        """Return the time of the last event."""
        return max(event["time"] for event in Client(self.ours.socket).events(follow=False, level="debug"))


def peer(config: Config) -> Config:
    """Return the only peer."""
    found: Config = next(iter(config["peers"].values()))
    return found

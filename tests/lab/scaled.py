"""Two gateways with as many children as one likes, for the sweeps: how does size tell in what a packet costs?

The far site's 10.2.0.0/16 is cut into networks of four addresses, from 10.2.16.0 on.  Of N children the first N - 1
protect one such network each, the last, behind all of them, the whole prefix: so whatever N is, the same packets are
protected, the bench's own flow by the last entry, and packets spread over the networks by as many SAs as there are.

Only the last child's SAs are negotiated, unless a figure of the whole daemon is asked for: the others are put into the
engines, with keys that both ends derive, when a first policy comes: `python -m tests.lab.scaled SIDE --config FILE`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import sha512
from ipaddress import ip_address
from pathlib import Path as FilePath

from ipsecd.control.client import Refusal, Unreachable
from ipsecd.engine import choose
from ipsecd.engine.native import NativeEngine
from ipsecd.policy import SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair, SaSpec, Volume
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, EspSuite
from tests.lab.daemon import Ipsecd
from tests.lab.rig import Rig, Site

FIRST = "10.2.16.0"
MAX_NETWORKS = 12_000
_FIRST_SPI = 0x4000_0000
CLEAR = {"a": "172.16.1.10", "b": "172.16.2.10"}     # hosts of both sites that no policy protects
LOOK_S = 3                                           # a status of thousands of children is work for the daemon, too
UP_S = 1200                                          # ten thousand key exchanges on a busy machine


class Scaled:
    """The pair of daemons; `sas` says whether each child has an SA or only the last, `negotiated` by whom."""

    def __init__(self, rig: Rig, children: int, *, sas: bool, negotiated: bool = False) -> None:
        if not 1 <= children <= MAX_NETWORKS:
            raise ValueError(f"from 1 to {MAX_NETWORKS} children")
        self.rig, self.children, self.negotiated = rig, children, negotiated
        fill = sas and not negotiated
        self.left, self.right = (
            Ipsecd(rig, site, peer, program=(sys.executable, "-m", "tests.lab.scaled", site.name) if fill else ())
            for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        for daemon, start in ((self.left, "always"), (self.right, "listen")):
            self._configure(daemon, start)
        _open_networks(rig)

    def start(self) -> None:
        """Start both and wait until all that must be up is."""
        self.right.start(within_s=UP_S)
        self.left.start(within_s=UP_S)
        want = self.children if self.negotiated else 1
        end = time.monotonic() + UP_S
        while (up := self._up()) < want:
            if time.monotonic() > end:
                raise AssertionError(f"{up} of {want} children are up:\n{self.left.log()}")
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End both in order."""
        for daemon in (self.left, self.right):
            daemon.stop(within_s=UP_S)

    def resident_kb(self) -> dict[str, int]:
        """Return the resident memory of each daemon."""
        return {daemon.site.name: _resident_kb(daemon.pid) for daemon in (self.left, self.right)}

    def _up(self) -> int:
        try:
            return sum(child["state"] == "up" for child in self.left.peer_status()["children"])
        except (Unreachable, Refusal):           # the daemon has its hands full
            return 0

    def _configure(self, daemon: Ipsecd, start: str) -> None:
        near = daemon.site.name == "a"
        first = int(ip_address(FIRST))
        networks = [f"{ip_address(first + 4 * number)}/30" for number in range(self.children - 1)]
        children = daemon.config["peers"][daemon.peer]["children"] = {}
        for number, network in enumerate([*networks, self.rig.b.prefix4]):
            last = number == len(networks)
            sides = [self.rig.a.prefix4], [network]
            children[f"child{number}"] = {
                "local": sides[0 if near else 1], "remote": sides[1 if near else 0],
                "start": start if self.negotiated or last else "listen", "esp": {"proposals": ["aes256gcm16-x25519"]}}
        daemon.config["gateway"].update(engine="native", inside=["lan0"])
        daemon.config["log"] = {"level": "warning"}
        daemon.write()


class FilledEngine(NativeEngine):
    """Has an SA for each child of its first policy but the last, as if they had been negotiated."""

    side = "a"
    _filled = False

    def replace_policy(self, entries: Sequence[SpdEntry], inner_mtus: Mapping[ChildKey, int]) -> None:
        super().replace_policy(entries, inner_mtus)
        if self._filled:
            return
        self._filled = True
        protecting = [entry for entry in entries if entry.child is not None]
        for number, entry in enumerate(protecting[:-1]):
            assert entry.child is not None
            pair = _pair(number, entry, entry.child, turned=self.side == "b")
            self.install_sa(pair)
            self.use_outbound(entry.child, pair.spi_in)


def _pair(number: int, entry: SpdEntry, child: ChildKey, *, turned: bool) -> SaPair:
    suite = EspSuite(next(encr for encr in ENCRS if encr.keyword == "aes256gcm16"), None, esn=False)
    inbound, outbound = (
        SaSpec(_FIRST_SPI + 2 * number + way, Secret(sha512(b"%d %d" % (number, way)).digest()[:36]), Secret(b""))
        for way in ((1, 0) if turned else (0, 1)))
    ends = [Endpoint("192.0.2.1", 4500), Endpoint("198.51.100.2", 4500)]       # of the rig's gateways
    path = Path(ends[1], ends[0]) if turned else Path(ends[0], ends[1])
    return SaPair(child, 0, suite, inbound, outbound, entry.local, entry.remote, path, 1024, False, Volume(), "ipsec0")


def _open_networks(rig: Rig) -> None:
    """Let host b answer for its whole prefix, and both hosts have an address that no policy protects."""
    rig.b.host.ip(f"route add local {rig.b.prefix4} dev lo")
    rig.b.gateway.ip(f"route add {rig.b.prefix4} via {rig.b.host4}")
    for site, peer in ((rig.a, rig.b), (rig.b, rig.a)):
        _open_clear(rig, site, peer)


def _open_clear(rig: Rig, site: Site, peer: Site) -> None:
    address = CLEAR[site.name]
    site.host.address("eth0", f"{address}/32")
    site.host.ip(f"route add {CLEAR[peer.name]} via {site.lan4} src {address}")
    site.gateway.ip(f"route add {address} via {site.host4}")
    rig.wan.ip(f"route add {address} via {site.wan4}")


def _resident_kb(pid: int) -> int:
    for line in FilePath(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no process {pid}")


def _run(side: str, arguments: list[str]) -> None:
    from ipsecd.cli import ipsecd

    FilledEngine.side = side
    choose.NativeEngine = FilledEngine           # type: ignore[misc]
    ipsecd.main(arguments, prog_name="ipsecd")


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])

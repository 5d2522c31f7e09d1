"""`scripts/bench --crowd N` and `--flood`: many tunnels against one head-end, and few while it is flooded.

Two real daemons on a rig. The left one plays the crowd: its peer entries are as many branches, with identities and
selectors of their own, that all come from one address, as from behind one NAT.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import NamedTuple

from ipsecd.config.compile import load_policy
from ipsecd.control.client import Client, Unreachable
from tests.lab.daemon import Config, Ipsecd
from tests.lab.rig import Rig, seconds_until
from tests.lab.spoof import Spoofer, first_request

SLOW_S = 120.0              # what is not up by then is broken
POLL_S = 0.05
FLOOD_S = 8.0
WARM_UP_S = 2.0             # of a flood, until cookies are on and queues are full
GROUPS = ("ecp256", "ecp384", "ecp521", "x25519", "x25519-ke1_mlkem768")


class Memory(NamedTuple):
    """Resident memory of a process, in KiB: at the moment, and the most since `forget_peak`."""

    now: int
    peak: int


class Crowd:
    """A head-end that listens (`right`), and `count` branches behind one address (`left`) that do not call it yet."""

    def __init__(self, rig: Rig, count: int, *, proposal: str = "") -> None:
        self.rig, self.count = rig, count
        self.right = Ipsecd(rig, rig.b, rig.a, config=_head_end(count, proposal))
        self.left = Ipsecd(rig, rig.a, rig.b, config=_branches(rig, count, proposal))
        self.right.start()
        self.left.start()
        self._connected = Connected(self.right)

    def call(self) -> None:
        """Let every branch bring its tunnel up."""
        for peer in self.left.config["peers"].values():
            peer["children"]["office"]["start"] = "always"
        self.left.write()
        self.left.reload()

    def all_up(self) -> bool:
        """Return whether every branch is connected; looks at most every POLL_S."""
        time.sleep(POLL_S)
        return len(self._connected.peers) == self.count

    def request(self) -> bytes:
        """Return an IKE_SA_INIT of the first branch."""
        policy = load_policy(self.left.file, credentials_directory=None).policy
        return first_request(policy, local=self.rig.a.wan4, remote=self.rig.b.wan4)


class Connected:
    """The peers that a daemon has a tunnel with, by its events: a status of all of them is work for who is measured."""

    def __init__(self, daemon: Ipsecd) -> None:
        self.peers: set[str] = set()
        self._daemon = daemon
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with contextlib.suppress(Unreachable):         # it stopped
            for event in Client(self._daemon.socket).events(follow=True):
                if event["event"] == "child_sa_up":
                    self.peers.add(event["peer"])
                elif event["event"] == "child_sa_down":
                    self.peers.discard(event["peer"])


def together(count: int, *, proposal: str = "") -> dict[str, float]:
    """Bring up `count` tunnels at once; return the seconds it took, memory a tunnel in kB, and the lag of the loop."""
    with Rig(watched=False) as rig:
        crowd = Crowd(rig, count, proposal=proposal)
        before, start = memory(crowd.right), time.monotonic()
        crowd.call()
        seconds_until(crowd.all_up, within_s=SLOW_S)
        took = time.monotonic() - start
        kilobytes = (memory(crowd.right).now - before.now) * 1.024 / count
        return {"seconds": took, "kb_each": kilobytes, "lag_ms": lag_ms(crowd.right)}


def flooded(count: int, *, from_peer: bool) -> dict[str, float]:
    """Bring up `count` tunnels in the middle of a flood, in part from their own address where `from_peer`."""
    with Rig(watched=False) as rig:
        crowd = Crowd(rig, count)
        request, before = crowd.request(), memory(crowd.right)
        forget_peak(crowd.right)
        processor = processor_s(crowd.right)
        with Spoofer(rig, request, seconds=FLOOD_S, also=rig.a.wan4 if from_peer else "") as flood:
            time.sleep(WARM_UP_S)
            grown = (memory(crowd.right).peak - before.now) / 1024
            cookies = crowd.right.status()["gateway"]["cookies"]
            used = (processor_s(crowd.right) - processor) / (flood.sent or 1)
            start = time.monotonic()
            crowd.call()
            seconds_until(crowd.all_up, within_s=SLOW_S)
            took = time.monotonic() - start
        return {"seconds": took, "grown_mib": grown, "cookies": cookies, "us_each": 1e6 * used,
                "lag_ms": lag_ms(crowd.right)}


def memory(daemon: Ipsecd) -> Memory:
    """Return what a daemon's process holds."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines())
    return Memory(int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0]))


def forget_peak(daemon: Ipsecd) -> None:
    """Begin the peak of a daemon's memory anew."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


def processor_s(daemon: Ipsecd) -> float:
    """Return the processor time that a daemon used."""
    nanoseconds = sum(int(Path(task, "schedstat").read_text().split()[0])
                      for task in Path(f"/proc/{daemon.pid}/task").iterdir())
    return nanoseconds / 1e9


def lag_ms(daemon: Ipsecd) -> float:
    """Return the 99th percentile of how late a daemon's loop ran in the last minute."""
    return float(daemon.status()["gateway"]["loop_lag"]["p99_ms"])


def report_crowd(count: int) -> str:
    """Return the figures of `together` with default proposals, and the lag under each group, as text."""
    first = together(count)
    lines = [f"{count} tunnels up in {first['seconds']:.1f} s (500: at most 15), {first['kb_each']:.0f} kB each (40)"]
    for group in GROUPS:
        figures = together(count, proposal=f"aes256gcm16-prfsha384-{group}")
        lines.append(f"{group:22} {figures['seconds']:6.1f} s, loop lag p99 {figures['lag_ms']:.0f} ms (50)")
    return "\n".join(lines)


def report_flood() -> str:
    """Return what a flood does to one peer, to one whose address is spoofed, and to a crowd, as text."""
    lines = []
    for name, count, from_peer in (("one peer", 1, False), ("its address spoofed", 1, True),
                                   ("500 behind one NAT", 500, True)):
        figures = flooded(count, from_peer=from_peer)
        lines.append(f"{name:20} up in {figures['seconds']:5.1f} s (one: 3), "
                     f"memory +{figures['grown_mib']:.1f} MiB (5), cookies {'on' if figures['cookies'] else 'off'}, "
                     f"{figures['us_each']:.0f} us a request, loop lag p99 {figures['lag_ms']:.0f} ms (50)")
    return "\n".join(lines)


def _head_end(count: int, proposal: str) -> Config:
    return _config("hub.example.net", {f"branch-{n}": {
        "identity": f"branch-{n}.example.net", **_common(proposal, local="10.2.0.0/16", remote=_net(n))}
        for n in range(count)})


def _branches(rig: Rig, count: int, proposal: str) -> Config:
    return _config("hub.example.net", {f"hub-{n}": {
        "address": [rig.b.wan4], "identity": "hub.example.net", "local_identity": f"branch-{n}.example.net",
        **_common(proposal, local=_net(n), remote="10.2.0.0/16")} for n in range(count)})


def _common(proposal: str, *, local: str, remote: str) -> Config:
    return {"auth": {"psk_file": "crowd.psk"}, **({"ike": {"proposals": [proposal]}} if proposal else {}),
            "children": {"office": {"local": [local], "remote": [remote], "start": "listen"}}}


def _config(identity: str, peers: Config) -> Config:
    return {"gateway": {"identity": identity, "interface": "ipsec0"}, "peers": peers, "log": {"level": "warning"}}


def _net(number: int) -> str:
    return f"10.{10 + number // 250}.{number % 250}.0/24"

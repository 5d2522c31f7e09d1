"""`scripts/demo`: two gateways with a LAN each, joined by a WAN, with the sample configuration. See scripts/demo."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.lab.daemon import BIN, Ipsecd, mirrored
from tests.lab.rig import NAT4, Rig, ping
from tests.lab.swan import Swan
from tests.support.netns import run

SAMPLE = Path(__file__).parent.parent.parent / "etc" / "ipsecd.yaml"
KEPT = "kept.json"                               # in the directory of a rig that was left standing


class Demo:
    """The main job, shown; every step raises AssertionError where it does not hold."""

    def __init__(self, rig: Rig, *, far_side: str) -> None:
        self.rig = rig
        self.left = Ipsecd(rig, rig.a, rig.b, text=SAMPLE.read_text())
        seen = NAT4 if rig.nat else rig.a.wan4
        self.right: Ipsecd | Swan
        if far_side == "strongswan":
            self.right = Swan(rig, rig.b, rig.a, remote="%any" if rig.nat else seen)
        else:
            self.right = Ipsecd(rig, rig.b, rig.a, config=mirrored(self.left.config, address=seen, listen=rig.nat))
        self._capture = rig.directory / "wan.pcap"

    def run(self) -> None:
        """Bring it up, use it, prove it."""
        self.capture()
        say("The left gateway starts with etc/ipsecd.yaml, and a second later the right one. The left one reports:")
        self.show_negotiation()
        say("Ping between the LANs, IPv4 and IPv6:")
        for target in (self.rig.b.host4, self.rig.b.host6):
            show(ping(self.rig.a.host, target))
        show(ping(self.rig.b.host, self.rig.a.host4))
        say("A transfer between the LANs:")
        self.transfer()
        say("ipsecctl status:")
        show(self.left.ctl("status"))
        say("What a stranger on the WAN saw:")
        self.prove()

    def capture(self) -> None:
        """Write what crosses the WAN router to a file, headers only."""
        self._tcpdump = self.rig.wan.popen("tcpdump", "-i", "wa", "-s", "96", "-U", "-w", str(self._capture),
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.rig.witness.strangers()

    def show_negotiation(self) -> None:
        """Start both, print the left gateway's events until its tunnel is up."""
        self.left.start()
        events = self.left.gateway.popen(str(BIN / "ipsecctl"), "--socket", str(self.left.socket), "events", "--follow",
                                         "--level", "debug")
        try:
            self.right.start()
            wait_for_office(self.left)
            time.sleep(0.5)                      # for the last lines
        finally:
            events.terminate()
            events.wait()

    def transfer(self) -> None:
        """Carry TCP through the tunnel."""
        server = self.rig.b.host.popen("iperf3", "-s", "-1", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        said = json.loads(self.rig.a.host.run("iperf3", "-J", "-t", "3", "-c", self.rig.b.host4))
        server.wait(5)
        received = said["end"]["sum_received"]
        assert received["bytes"] > 100_000, "the transfer stood still"
        show(f"{received['bytes'] / 1e6:.1f} MB in {received['seconds']:.1f} s: "
             f"{received['bits_per_second'] / 1e6:.0f} Mbit/s")

    def prove(self) -> None:
        """Show that nothing but IKE and ESP crossed the WAN."""
        time.sleep(0.5)
        self._tcpdump.terminate()
        self._tcpdump.wait()
        shown = run("tcpdump", "-n", "-t", "-r", str(self._capture), "-c", "8", "udp")
        show(shown + "...")
        counts = self.rig.witness.counts()
        strangers = self.rig.witness.strangers()
        inner = run("tcpdump", "-n", "-r", str(self._capture), "net 10.0.0.0/8 or net 2001:db8:1::/48 "
                    "or net 2001:db8:2::/48")
        show(f"{counts['ike'] + counts['ike_natt']} IKE messages, {counts['esp']} ESP packets, "
             f"{len(strangers)} others, {len(inner.splitlines())} with an inner address")
        assert counts["ike"] >= 2, "no IKE crossed the WAN"
        assert counts["esp"] >= 100, "hardly any ESP crossed the WAN"
        assert not strangers, "something else than IKE and ESP crossed the WAN"
        assert not inner, "an inner address crossed the WAN in clear"

    def invitation(self) -> str:
        """Return what to type into a demo that is left standing."""
        tag = self.rig.lab.tag
        return f"""
The demo keeps standing. To play with it, as root:

  alias left='ip netns exec {tag}-gw-a {BIN}/ipsecctl --socket {self.left.socket}'
  left status --watch
  left events --follow
  left rekey hq/office --wait
  left policy 10.1.0.10 10.2.9.1 tcp 1234 9100
  ip netns exec {tag}-host-a ping {self.rig.b.host4}
  ip netns exec {tag}-wan tcpdump -n -i wa
  $EDITOR {self.left.file}; left plan; left reload --wait
  kill -9 $(pgrep -f '[i]psecd --config {self.left.file}')     # nothing leaks

and to take it away: scripts/demo --clean
"""


def wait_for_office(daemon: Ipsecd) -> None:
    """Wait until every child that is to be up always is up."""
    until = time.monotonic() + 20
    while True:
        states = [child["state"] for child in daemon.peer_status()["children"] if child["start"] == "always"]
        if states and set(states) == {"up"}:
            return
        if time.monotonic() > until:
            raise AssertionError(f"the tunnel did not come up:\n{daemon.ctl('status')}\n{daemon.log()}")
        time.sleep(0.1)


def clean() -> None:
    """Take away every demo of this user that was left standing."""
    for note in Path(tempfile.gettempdir()).glob(f"ipsecd-lab-*/{KEPT}"):
        if note.parent.is_symlink() or note.parent.stat().st_uid != os.geteuid():
            continue                             # somebody else's file must not say what root kills
        for namespace in json.loads(note.read_text()):
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", namespace, check=False)
        shutil.rmtree(note.parent, ignore_errors=True)


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def show(text: str) -> None:
    """Print what a command said, indented."""
    print("\n".join(f"   {line}" for line in text.strip().splitlines()), flush=True)


def main() -> int:
    """Run the demo as the command line says; 0 only if everything held."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Two gateways, a LAN each, one tunnel.")
    parser.add_argument("--keep", action="store_true", help="leave it standing, with commands to play with")
    parser.add_argument("--clean", action="store_true", help="take away what --keep left")
    parser.add_argument("--peer", choices=["ipsecd", "strongswan"], default="ipsecd", help="the far side")
    parser.add_argument("--nat", action="store_true", help="put the left side behind a NAT (IPv4)")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    if options.clean:
        clean()
        return 0
    signal.signal(signal.SIGTERM, _leave)
    rig = Rig(nat=options.nat)
    standing = False
    try:
        demo = Demo(rig, far_side=options.peer)
        demo.run()
        say("Everything held.")
        if options.keep:
            (rig.directory / KEPT).write_text(json.dumps([node.namespace for node in rig.lab.nodes.values()]))
            standing = True
            print(demo.invitation())
    except AssertionError as error:
        print(f"\ndemo: failed: {error}", file=sys.stderr)
        return 1
    finally:
        if not standing:
            rig.close()
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

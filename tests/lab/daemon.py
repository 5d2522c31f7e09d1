"""A real ipsecd on one gateway of a rig, with a configuration, sockets and state of its own.

    left, right = Ipsecd(rig, rig.a, rig.b), Ipsecd(rig, rig.b, rig.a)
    right.start()
    left.start()
    left.wait_up()
    left.change(lambda c: c["policies"].append({"name": "x", "action": "bypass", "remote": ["10.2.9.0/24"]}))
    left.reload()
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ipsecd.control.client import Client, Refusal, Unreachable
from tests.lab.logged import Logged
from tests.lab.rig import Rig, Site
from tests.lab.swan import LEFT_ID, PSK, RIGHT_ID
from tests.support.netns import eventually

BIN = Path(sys.executable).parent
ENGINE = os.environ.get("LAB_ENGINE", "auto")    # the engine of plain sites: LAB_ENGINE=python scripts/test tests/lab
Config = dict[str, Any]

START_S = 60                # a loaded machine takes its time to import what a daemon needs; nothing is proven by it

# Names are looked up nowhere but in the rig's own hosts file; the host's resolver is not reachable from inside.
_WITH_HOSTS = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'


class Ipsecd(Logged):
    """One daemon; `config` is its configuration as a tree, written to `file` by `write`."""

    def __init__(self, rig: Rig, site: Site, peer: Site, *, name: str = "", text: str = "",
                 config: Config | None = None, program: tuple[str, ...] = ()) -> None:
        self.rig = rig
        self.site = site
        self._program = program or (str(BIN / "ipsecd"),)
        self.gateway = site.gateway
        self.directory = rig.directory / f"ipsecd-{name or site.name}"
        self.directory.mkdir()
        self.file = self.directory / "ipsecd.yaml"
        self.socket = self.directory / "control.sock"
        self.log_file = self.directory / "log"
        self.config: Config = config or (yaml.safe_load(text) if text else default_config(site, peer))
        self._process: subprocess.Popen[bytes] | None = None
        self.hosts({})
        (self.directory / "resolv.conf").write_text("")
        self._own_paths()
        if text:
            self._write_text(text)
        else:
            self.write()

    @property
    def peer(self) -> str:
        """The name of the first peer entry."""
        return next(iter(self.config["peers"]))

    @property
    def child(self) -> str:
        """Its first child as PEER/CHILD."""
        return f"{self.peer}/{next(iter(self.config['peers'][self.peer]['children']))}"

    def hosts(self, names: dict[str, str]) -> None:
        """Write the names that this daemon can resolve; takes effect at once, also while it runs."""
        lines = "".join(f"{address} {name}\n" for name, address in names.items())
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n{lines}")

    def change(self, how: Callable[[Config], object]) -> None:
        """Change the configuration and write it; `reload` makes a running daemon take it."""
        how(self.config)
        self.write()

    def write(self) -> None:
        """Write the configuration."""
        self.file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def start(self, *, wait: bool = True, before: tuple[str, ...] = (), within_s: float = START_S) -> None:
        """Start the daemon, below the command `before`, and wait until its control socket answers."""
        with self.log_file.open("ab") as log:
            self._process = self.gateway.popen(
                "unshare", "--mount", "sh", "-c", _WITH_HOSTS, str(self.directory), *before,
                *self._program, "--config", str(self.file), stdout=log, stderr=log)
        if wait and not eventually(self.answers, within_s=within_s):
            raise AssertionError(f"ipsecd on {self.site.name} did not start:\n{self.log()}")

    def run_to_end(self, *options: str, within_s: float = 60) -> int:
        """Run ipsecd with these options instead of --config FILE until it ends; return its exit status."""
        with self.log_file.open("ab") as log:
            return self.gateway.popen(str(BIN / "ipsecd"), *options, stdout=log, stderr=log).wait(within_s)

    def answers(self) -> bool:
        """Return whether the control socket answers; fail if the daemon ended meanwhile."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"ipsecd on {self.site.name} ended with {self._process.returncode}:\n{self.log()}")
        if not self.socket.is_socket():
            return False
        try:
            self.status()
        except (Unreachable, Refusal):
            return False
        return True

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """Run ipsecctl against this daemon; raise CommandError where it fails, unless `check` is off."""
        return self.gateway.run(str(BIN / "ipsecctl"), "--socket", str(self.socket), *arguments, check=check)

    def status(self) -> dict[str, Any]:
        """Return the answer to `ipsecctl status --json`, asked from here: a path's socket ignores namespaces."""
        return Client(self.socket).status().model_dump()

    def peer_status(self, name: str = "") -> dict[str, Any]:
        """Return one peer of the status."""
        found: dict[str, Any] = next(p for p in self.status()["peers"] if p["name"] == (name or self.peer))
        return found

    def child_status(self) -> dict[str, Any]:
        """Return the first child of the first peer."""
        child: dict[str, Any] = self.peer_status()["children"][0]
        return child

    def wait_up(self, *, within_s: float = 40) -> None:
        """Wait until every child of every peer is up."""
        def up() -> bool:
            return all(child["state"] == "up" for peer in self.status()["peers"] for child in peer["children"])

        if not eventually(up, within_s=within_s):
            raise AssertionError(f"{self.site.name} is not up after {within_s} s:\n{self.ctl('status')}\n{self.log()}")

    def reload(self) -> None:
        """Reload and wait; raise CommandError with the list of errors where the file is refused."""
        self.ctl("reload", "--wait")

    def stop(self, *, within_s: float = 20) -> None:
        """End it in order, with status 0."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self.wait_ended(within_s=within_s)

    def wait_ended(self, *, within_s: float) -> None:
        """Wait until it has ended, with status 0."""
        assert self._process is not None
        status = self._process.wait(timeout=within_s)
        if status:
            raise AssertionError(f"ipsecd on {self.site.name} ended with {status}:\n{self.log()}")

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=5)

    def revive(self) -> None:
        """Start it unless it runs: for a world that outlives a failed test."""
        if not self.running:
            self.start()

    @property
    def running(self) -> bool:
        """True from start until it ends."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def _own_paths(self) -> None:
        """Point what a configuration names outside of itself to this daemon's directory: secrets, state, socket."""
        self.config["control"] = {**self.config.get("control", {}), "socket": str(self.socket)}
        self.config.get("gateway", {}).pop("state", None)        # then it follows from the socket
        for peer in self.config["peers"].values():
            if "psk_file" in peer["auth"]:
                peer["auth"]["psk_file"] = str(self._secret(Path(peer["auth"]["psk_file"]).name))

    def _secret(self, name: str) -> Path:
        path = self.directory / name
        path.write_text(PSK + "\n")
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
        return path

    def _write_text(self, text: str) -> None:
        """Write a text as it is but for those paths, so that a sample is run as its reader sees it."""
        lines = []
        for line in text.splitlines():
            key = line.split("#")[0]
            before, colon, _ = key.partition("psk_file:")
            if colon:
                name = Path(key.partition("psk_file:")[2].split("}")[0].split(",")[0].strip()).name
                line = f"{before}psk_file: {self._secret(name)}{'}' if '}' in key else ''}"
            elif key.strip().startswith("socket:"):
                line = f"{key.split('socket:')[0]}socket: {self.socket}"
            elif key.strip().startswith("control: {"):
                line = f"control: {{socket: {self.socket}}}"
            elif key.strip().startswith("state:"):
                continue
            lines.append(line)
        self.file.write_text("\n".join(lines) + "\n")


def bring_up(left: Ipsecd, right: Ipsecd) -> None:
    """Start two daemons, the right one first; return once both have their tunnel."""
    right.start()
    left.start()
    left.wait_up()
    right.wait_up()
    left.rig.witness.strangers()                 # what the links said while they came up


def default_config(site: Site, peer: Site, *, family: int = 4) -> Config:
    """Return the configuration of one of two plain sites: both ends start, IPv4 and IPv6 inside."""
    identity, other = (LEFT_ID, RIGHT_ID) if site.name == "a" else (RIGHT_ID, LEFT_ID)
    name, far = ("branch-a", "hq") if site.name == "a" else ("hq", "branch-a")
    return {
        "gateway": {"identity": identity, "interface": "ipsec0", "engine": ENGINE},
        "peers": {far: {
            "address": [peer.wan(family)], "identity": other, "auth": {"psk_file": f"{name}.psk"},
            "children": {"office": {"local": [site.prefix4, site.prefix6], "remote": [peer.prefix4, peer.prefix6],
                                    "start": "always"}}}},
        "policies": [],
        "log": {"level": "debug"},
    }


def mirrored(config: Config, *, address: str, listen: bool = False) -> Config:
    """Return what the first peer of a configuration must have on its side; we are at `address` or anywhere."""
    peer = next(iter(config["peers"].values()))
    swapped = {child: {**keys, "local": keys["remote"], "remote": keys["local"], "start": "listen"}
               for child, keys in peer["children"].items()}
    far = {"identity": config["gateway"]["identity"], "auth": dict(peer["auth"]), "children": swapped}
    return {"gateway": {"identity": peer["identity"]}, "log": {"level": "debug"},
            "peers": {"branch-a": far if listen else {"address": [address], **far}}}


def tunnel(rig: Rig, *, start_right: str = "always", family: int = 4) -> tuple[Ipsecd, Ipsecd]:
    """Start a daemon on each side and wait until their tunnel is up; return (left, right)."""
    left = Ipsecd(rig, rig.a, rig.b, config=default_config(rig.a, rig.b, family=family))
    right = Ipsecd(rig, rig.b, rig.a, config=default_config(rig.b, rig.a, family=family))
    peer = right.config["peers"][right.peer]
    peer["children"]["office"]["start"] = start_right
    if rig.nat:
        del peer["address"]
    right.write()
    bring_up(left, right)
    return left, right

"""The programs as an operator uses them: a gateway whose peer is silent, in a network namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import LAB, Lab, Node, eventually

pytestmark = LAB

BIN = Path(sys.executable).parent
KEY = "lab-key-that-must-never-be-shown-anywhere"
CONFIG = """\
gateway: {{identity: a.example.net}}
peers:
  hq:
    address: [192.0.2.2]
    identity: b.example.net
    auth: {{psk_file: {directory}/hq.psk}}
    children:
      office: {{local: [10.1.0.0/16], remote: [10.2.0.0/16], start: always}}
policies:
  - {{name: printers, action: bypass, remote: [10.2.9.0/24]}}
control: {{socket: {directory}/c.sock}}
log: {{level: debug}}
"""


class Operated:
    """A running daemon and its operator."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.directory = directory
        self.file = directory / "ipsecd.yaml"
        self.file.write_text(CONFIG.format(directory=directory))
        key = directory / "hq.psk"
        key.write_text(KEY)
        key.chmod(0o600)
        self.log = directory / "log"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = self.node.popen(str(BIN / "ipsecd"), "--config", str(self.file), stderr=log)
        assert eventually((self.directory / "c.sock").is_socket, within_s=30), self.log.read_text()
        assert eventually(lambda: self.ctl("events").returncode == 0, within_s=30), self.log.read_text()
        return process

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.node.namespace, str(BIN / "ipsecctl"), "--socket",
                   str(self.directory / "c.sock"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def answer(self, *words: str) -> dict[str, Any]:
        done = self.ctl(*words, "--json")
        assert done.stdout, done.stderr + self.log.read_text()
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Operated]:
    with Lab() as lab:
        node, other = lab.node("gw"), lab.node("far")
        lab.link(node, "wan0", other, "wan0")
        node.address("wan0", "192.0.2.1/24")
        node.ip("link set lo up")
        yield Operated(node, tmp_path)


def test_operator_sees_and_steers_a_gateway_whose_peer_is_silent(operated: Operated) -> None:
    process = operated.start()

    status = operated.answer("status")
    assert status["peers"][0]["name"] == "hq" and status["gateway"]["guard"]["installed"]
    assert operated.ctl("status").returncode == 0
    decided = operated.answer("policy", "10.1.0.5", "10.2.0.7", "tcp", "1234", "445")
    assert (decided["action"], decided["child"]) == ("protect", "office")
    assert operated.answer("policy", "10.1.0.5", "10.2.9.7")["name"] == "printers"
    checks = {check["name"]: check["result"] for check in operated.answer("doctor")["checks"]}
    assert (checks["tun"], checks["device"], checks["guard"]) == ("ok", "ok", "ok")
    assert operated.answer("plan")["ok"]
    assert operated.ctl("flush", "--yes").returncode == 1, "a daemon runs"

    operated.file.write_text(operated.file.read_text().replace("bypass", "bypas"))
    refused = operated.ctl("reload", "--wait")
    assert refused.returncode == 1 and "bypas" in refused.stdout, refused.stderr
    assert operated.answer("status")["config"]["running_old"] is True
    operated.file.write_text(operated.file.read_text().replace("bypas", "discard"))
    assert operated.answer("reload", "--wait")["ok"]
    assert operated.answer("policy", "10.1.0.5", "10.2.9.7")["action"] == "discard"

    shown = "".join(operated.ctl(*words).stdout for words in (["status", "hq"], ["status", "--json"], ["events"]))
    process.terminate()
    assert process.wait(timeout=15) == 0
    assert KEY not in shown + operated.log.read_text()
    assert KEY.encode().hex() not in shown + operated.log.read_text()


def test_flush_takes_down_what_a_killed_daemon_left(operated: Operated) -> None:
    process = operated.start()
    process.kill()
    process.wait(timeout=15)
    assert "ipsecd" in operated.node.run("nft", "list", "tables")

    flushed = operated.ctl("flush", "--yes")

    assert flushed.returncode == 0, flushed.stderr
    assert "ipsecd" not in operated.node.run("nft", "list", "tables")
    assert "7710" not in operated.node.run("ip", "rule")
    assert "ipsec0" not in operated.node.run("ip", "link")


def test_guard_at_boot_comes_up_although_the_file_is_broken(operated: Operated) -> None:
    process = operated.start()
    process.kill()
    process.wait(timeout=15)
    assert operated.ctl("flush", "--yes").returncode == 0
    process = operated.start()
    process.terminate()
    process.wait(timeout=15)
    operated.node.run("nft", "flush", "ruleset")
    operated.file.write_text(operated.file.read_text() + "peers: {{{\n")

    operated.node.run(str(BIN / "ipsecd"), "--guard", "--config", str(operated.file))

    assert "ipsecd" in operated.node.run("nft", "list", "tables")


def test_broken_file_exits_78_behind_the_guard_of_the_last_accepted_policy(operated: Operated) -> None:
    process = operated.start()
    process.terminate()
    process.wait(timeout=15)
    operated.node.run("nft", "flush", "ruleset")
    operated.file.write_text(operated.file.read_text().replace("bypass", "bypas"))

    done = operated.node.popen(str(BIN / "ipsecd"), "--config", str(operated.file), stderr=subprocess.DEVNULL)

    assert done.wait(timeout=15) == 78
    assert "ipsecd" in operated.node.run("nft", "list", "tables")

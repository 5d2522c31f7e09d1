"""What a careless operator does to a running gateway: signals at the wrong time, a full disk, a second daemon, a taken
port.  Each time the daemon says what is wrong, fails closed, and goes on as soon as it can.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.test_operation import BIN, Operated
from tests.support.netns import LAB, Lab, eventually

pytestmark = LAB

HOLD_500 = ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind((\"192.0.2.1\", 500))\n"
            "print(flush=True)\ninput()")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Operated]:
    with Lab() as lab:
        node, other = lab.node("gw"), lab.node("far")
        lab.link(node, "wan0", other, "wan0")
        node.address("wan0", "192.0.2.1/24")
        yield Operated(node, tmp_path)


def test_hangup_at_any_time_of_the_start_does_not_end_the_daemon(gateway: Operated) -> None:
    with gateway.log.open("ab") as log:
        process = gateway.node.popen(str(BIN / "ipsecd"), "--config", str(gateway.file), stderr=log)
    assert eventually(lambda: _blocks_hangup(process.pid), within_s=15)

    os.kill(process.pid, signal.SIGHUP)

    assert eventually(lambda: "reloaded" in gateway.log.read_text(), within_s=15), gateway.log.read_text()
    process.terminate()
    assert process.wait(timeout=15) == 0


def test_hangups_during_a_reload_are_worth_one_more(gateway: Operated) -> None:
    process = gateway.start()
    for _ in range(200):
        os.kill(process.pid, signal.SIGHUP)
    assert gateway.answer("reload", "--wait")["ok"]

    assert gateway.answer("status")["config"]["generation"] < 50


def test_reload_onto_a_full_disk_is_applied_and_status_says_what_is_missing(gateway: Operated) -> None:
    gateway.start()
    state = gateway.directory / "c.state"
    shutil.rmtree(state)
    state.write_text("no directory, so that nothing can be stored here")
    gateway.file.write_text(gateway.file.read_text().replace("bypass", "discard"))

    assert gateway.answer("reload", "--wait")["ok"]

    config = gateway.answer("status")["config"]
    assert not config["running_old"] and any("gateway.state" in w for w in config["warnings"]), config
    state.unlink()
    assert gateway.answer("reload", "--wait")["ok"]
    assert not any("gateway.state" in w for w in gateway.answer("status")["config"]["warnings"])


def test_log_level_follows_a_reload(gateway: Operated) -> None:
    gateway.start()
    gateway.file.write_text(gateway.file.read_text().replace("level: debug", "level: error"))
    assert "log.level changed" in gateway.ctl("plan").stdout
    assert gateway.answer("reload", "--wait")["ok"]
    logged = gateway.log.stat().st_size

    assert gateway.answer("reload", "--wait")["ok"]

    assert gateway.log.stat().st_size == logged


def test_address_of_listen_that_is_nowhere_is_a_warning(gateway: Operated) -> None:
    gateway.start()
    gateway.file.write_text(gateway.file.read_text().replace("gateway: {", "gateway: {listen: [192.0.2.77], "))

    assert gateway.answer("reload", "--wait")["ok"]

    assert any("192.0.2.77" in w for w in gateway.answer("status")["config"]["warnings"])


def test_second_daemon_is_refused_before_it_touches_the_routes_of_the_first(gateway: Operated) -> None:
    gateway.start()
    routes = gateway.node.run("ip", "route", "show", "table", "7710")
    second = gateway.directory / "second.yaml"
    second.write_text(gateway.file.read_text().replace("gateway: {", "gateway: {interface: ipsec7, ")
                      .replace("c.sock", "second.sock"))

    done = gateway.node.popen(str(BIN / "ipsecd"), "--config", str(second), stderr=subprocess.PIPE)

    assert done.stderr is not None
    said = done.stderr.read().decode()
    assert (done.wait(timeout=15), "set gateway.tables" in said) == (1, True), said
    assert gateway.node.run("ip", "route", "show", "table", "7710") == routes
    assert "ipsec7" not in gateway.node.run("ip", "link")


def test_flush_leaves_the_tables_of_a_daemon_with_another_device(gateway: Operated) -> None:
    gateway.file.write_text(gateway.file.read_text().replace("gateway: {", "gateway: {interface: ipsec7, "))
    gateway.start()
    routes = gateway.node.run("ip", "route", "show", "table", "7710")

    done = subprocess.run(("ip", "netns", "exec", gateway.node.namespace, str(BIN / "ipsecctl"), "--socket",
                           str(gateway.directory / "other.sock"), "flush", "--yes"),
                          capture_output=True, text=True, check=False)

    assert (done.returncode, "another ipsecd has routing table" in done.stderr) == (1, True), done
    assert gateway.node.run("ip", "route", "show", "table", "7710") == routes


def test_port_that_another_program_gives_back_is_taken(gateway: Operated) -> None:
    holder = gateway.node.popen(sys.executable, "-c", HOLD_500, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    gateway.start()
    assert any("192.0.2.1: " in w for w in gateway.answer("status")["config"]["warnings"])

    holder.kill()
    holder.wait(timeout=5)

    assert eventually(lambda: not any("192.0.2.1: " in w for w in gateway.answer("status")["config"]["warnings"]),
                      within_s=15)


def _blocks_hangup(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked.split()[1], 16) >> (signal.SIGHUP - 1) & 1)

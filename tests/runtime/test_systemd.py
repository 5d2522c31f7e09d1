from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipsecd.runtime.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Systemd's end of the notify socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@ipsecd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0" + name[1:] if name.startswith("@") else name)
        s.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        yield s


def test_notifier_reports_the_life_of_the_daemon(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("3 peers")
    assert manager.recv(4096) == b"READY=1\nSTATUS=3 peers"
    notifier.alive()
    assert manager.recv(4096) == b"WATCHDOG=1"
    notifier.stopping()
    assert manager.recv(4096) == b"STOPPING=1"


def test_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    Notifier().reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_watchdog_is_fed_twice_in_its_time_and_children_do_not_inherit_it(manager: socket.socket) -> None:
    assert Notifier().watchdog_s == 5.0
    assert "NOTIFY_SOCKET" not in os.environ
    assert "WATCHDOG_USEC" not in os.environ


def test_notifier_does_nothing_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    notifier = Notifier()
    notifier.ready("")
    assert notifier.watchdog_s is None


def test_manager_that_is_gone_or_busy_does_not_end_the_daemon(manager: socket.socket,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    notifier = Notifier()
    for _ in range(5000):            # nobody reads: the queue fills
        notifier.alive()
    manager.close()
    notifier.alive()
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    Notifier().alive()

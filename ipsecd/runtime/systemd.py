"""sd_notify(3): readiness, reload and watchdog messages to systemd; without it, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notifier:
    """Sends state to the socket that systemd named; `watchdog_s` is how often it wants to hear, None for never."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(usec) / 2e6 if usec.isdigit() and self._address else None

    def ready(self, status: str) -> None:
        """The daemon serves; also ends a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins (systemd wants the monotonic time beside it)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is on its way down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A manager that is gone for a moment (daemon-reexec), or busy, is no reason to stop.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.setblocking(False)
            s.connect(address)
            s.send(text.encode())

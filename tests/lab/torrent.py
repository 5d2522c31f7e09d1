"""Numbered datagrams at 1,000 and more a second, each of them accounted for: sender and receiver are programs of their
own, so that whatever a test does meanwhile slows neither.

    with Torrent(rig.a.host, rig.b.host, rig.b.host4) as there:
        ...                                  # rekey, reload
    assert there.lost == [] and there.doubled == 0

Run as a script, this module is either end: send TARGET PORT PACKETS_PER_S BYTES, or receive PORT.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

# Only what starts fast: both ends import this file alone.

_NUMBER_BYTES = 4
_MAX_NUMBERS = 1 << 20
_QUIET_S = 1.0                  # after the sender has ended: what is on its way by then is lost
_BUFFER = 16 << 20
_SO_RCVBUFFORCE = 33
_ports = itertools.count(7100)


class Torrent:
    """A steady stream from one node to another while the `with` block runs; counts are there after it."""

    def __init__(self, sender: Any, receiver: Any, target: str, *, packets_per_s: int = 1000, size: int = 64,
                 source: str = "") -> None:
        self.sent = self.received = self.doubled = 0
        self.lost: list[int] = []           # numbers that never came
        self.longest_gap_s = 0.0            # between two arrivals
        port = str(next(_ports))
        self._receiver = _program(receiver, "receive", port)
        assert self._receiver.stdout and self._receiver.stdout.readline()        # it listens
        self._sender = _program(sender, "send", target, port, str(packets_per_s), str(size), source)
        assert self._sender.stdout and self._sender.stdout.readline()            # it sends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End both and take the account."""
        self.sent = int(_end(self._sender)["sent"])
        account = _end(self._receiver, str(self.sent))
        self.received, self.doubled = account["received"], account["doubled"]
        self.lost, self.longest_gap_s = account["lost"], account["longest_gap_s"]

    @property
    def account(self) -> str:
        """For the message of a failed assertion."""
        return (f"{len(self.lost)} of {self.sent} lost, {self.doubled} doubled, gap {self.longest_gap_s:.3f} s: "
                f"{_runs(self.lost)}")


def _program(node: Any, *arguments: str) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = node.popen(sys.executable, str(Path(__file__)), *arguments,
                                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process


def _end(process: subprocess.Popen[bytes], last_word: str = "") -> dict[str, Any]:
    out, _ = process.communicate(last_word.encode() + b"\n", timeout=30)
    found: dict[str, Any] = json.loads(out)
    return found


def _runs(numbers: list[int], most: int = 6) -> str:
    """Return numbers as ranges, so that one outage shows as one range."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{low}-{high}" for low, high in runs[:most]) + (" ..." if len(runs) > most else "")


def _send(target: str, port: int, packets_per_s: int, size: int, source: str) -> None:
    sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    if source:
        sock.bind((source, 0))
    stop = _ending()
    filler = bytes(max(0, size - _NUMBER_BYTES))
    print(flush=True)
    number, start = 0, time.monotonic()
    while not stop() and number < _MAX_NUMBERS:
        due = int((time.monotonic() - start) * packets_per_s)
        while number < due:
            with contextlib.suppress(OSError):           # refused by the kernel: it counts as lost
                sock.sendto(number.to_bytes(_NUMBER_BYTES, "big") + filler, (target, port))
            number += 1
        time.sleep(1 / packets_per_s)
    print(json.dumps({"sent": number}))


def _receive(port: int) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.bind(("::", port))
    sock.settimeout(0.05)
    stop = _ending()
    seen, doubled, gap, last = bytearray(_MAX_NUMBERS), 0, 0.0, 0.0
    quiet_since = 0.0
    print(flush=True)
    while True:
        now = time.monotonic()
        try:
            number = int.from_bytes(sock.recv(65536)[:_NUMBER_BYTES], "big")
        except TimeoutError:
            if stop():
                quiet_since = quiet_since or now
                if now - quiet_since > _QUIET_S:
                    break
            continue
        now = time.monotonic()
        gap, last = max(gap, now - last if last else 0.0), now
        doubled += seen[number]
        seen[number] = 1
    sent = int(stop() or 0)
    print(json.dumps({"received": sum(seen), "doubled": doubled, "longest_gap_s": gap,
                      "lost": [n for n in range(sent) if not seen[n]]}))


def _ending() -> Callable[[], str]:
    """Return what tells the last line of standard input, once there is one."""
    word: list[str] = []

    def stop() -> str:
        if not word and select.select([0], [], [], 0)[0]:
            word.append(os.read(0, 64).decode().strip() or "0")
        return word[0] if word else ""
    return stop


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.argv[1] == "send":
        _send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        _receive(int(sys.argv[2]))

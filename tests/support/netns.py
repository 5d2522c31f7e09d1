"""Network namespaces for labs: `with Lab() as lab:` builds a small world and takes it away, also after a failure.

    with Lab() as lab:
        host, gateway = lab.node("host"), lab.node("gw")
        lab.link(host, "eth0", gateway, "lan0", mtu=1500)
        host.address("eth0", "10.1.0.10/24", "2001:db8:1::10/64")
        gateway.address("lan0", "10.1.0.1/24", "2001:db8:1::1/64")
        host.ip("route add default via 10.1.0.1")
        gateway.sysctl(ipv4__ip_forward=1)
        tap = gateway.tap("lan0")                           # a packet socket; tap.count(b"token") reads it empty
        daemon = gateway.popen("ipsecd", "--config", "...") # ended with the lab
        with gateway.within():                              # this thread only: sockets made here belong to the node
            ...

Names are made of pid and a random part, so labs may run side by side; interfaces keep plain names because each node is
a namespace of its own.  Nothing here touches the host's own routes, rules, nft tables or sysctls.  Needs root: mark a
module with `pytestmark = LAB`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Self

import pytest

LAB = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab: network namespaces need root")]

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_SO_ATTACH_FILTER = 26                          # not in the socket module, nor is the next
_SO_RCVBUFFORCE = 33
BUSIEST = 4.0
_OUTGOING = 4                                   # PACKET_OUTGOING of linux/if_packet.h
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(AssertionError):
    """A command of the lab ended with a non-zero status; the text holds its error output."""


def run(*command: str, text: str | None = None, check: bool = True) -> str:
    """Run a command on this side, return its standard output; raise CommandError unless `check` is off."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Tap:
    """Frames seen on one interface of a node, from the moment of making."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def keep(self, expression: str) -> None:
        """Let the kernel discard frames that do not match, now and later; tcpdump compiles the expression."""
        lines = run("tcpdump", "-ddd", "-y", "EN10MB", expression).splitlines()
        program = b"".join(struct.pack("=HBBI", *map(int, line.split())) for line in lines[1:])
        code = ctypes.create_string_buffer(program)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                              struct.pack("@HP", len(lines) - 1, ctypes.addressof(code)))

    def frames(self, *, wait_s: float = 0.2, outgoing: bool = True) -> list[bytes]:
        """Return what came since the last call, after `wait_s` for late ones; `outgoing` keeps only what left."""
        time.sleep(wait_s)
        found = []
        while select.select([self._sock], [], [], 0)[0]:
            frame, where = self._sock.recvfrom(65536)
            if not outgoing or where[2] == _OUTGOING:
                found.append(frame)
        return found

    def count(self, token: bytes, *, wait_s: float = 0.2, outgoing: bool = True) -> int:
        """Return how many frames since the last call hold `token`."""
        return sum(token in frame for frame in self.frames(wait_s=wait_s, outgoing=outgoing))


class Node:
    """One network namespace of a lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab = lab
        self.name = name
        self.namespace = f"{lab.tag}-{name}"

    def run(self, *command: str, text: str | None = None, check: bool = True) -> str:
        """Run a command inside, return its standard output."""
        return run("ip", "netns", "exec", self.namespace, *command, text=text, check=check)

    def ip(self, *lines: str, check: bool = True) -> None:
        """Run `ip` command lines in order, such as "-6 route add default via ::1"."""
        for line in lines:
            run("ip", "-n", self.namespace, *line.split(), check=check)

    def nft(self, text: str) -> None:
        """Load nft text."""
        self.run("nft", "-f", "-", text=text)

    def address(self, interface: str, *addresses: str) -> None:
        """Add addresses with prefix lengths; IPv6 without duplicate address detection."""
        self.ip(*(f"addr add {a} dev {interface}{' nodad' if ':' in a else ''}" for a in addresses))

    def sysctl(self, **values: int | str) -> None:
        """Set keys below net/, with "__" for "/": sysctl(ipv4__ip_forward=1)."""
        with self.within():
            for key, value in values.items():
                Path("/proc/sys/net", key.replace("__", "/")).write_text(str(value))

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Move this thread inside; what it opens there stays in that namespace.  Never await in between."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.namespace}") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(here.fileno())

    def popen(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a program inside; its pid is the program's own; it is killed with the lab."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], **options)  # type: ignore[call-overload]
        self._lab.adopt(process)
        return process  # type: ignore[no-any-return]

    def spawn(self, work: Callable[[], None]) -> int:
        """Fork a child that runs `work` inside and then ends; return its pid, killed with the lab."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # our handlers must never run in a child
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if pid == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            try:
                with self.within():
                    work()
                os._exit(0)
            finally:
                os._exit(1)
        self._lab.children.append(pid)
        return pid

    def end(self, pid: int, how: int = signal.SIGKILL) -> None:
        """End a child of `spawn` and wait for it."""
        os.kill(pid, how)
        os.waitpid(pid, 0)
        self._lab.children.remove(pid)

    def udp(self, address: str = "", port: int = 0, *, family: int = 0, device: str | None = None,
            mark: int = 0) -> socket.socket:
        """Return a UDP socket of this node, closed with the lab."""
        with self.within():
            sock = socket.socket(family or (socket.AF_INET6 if ":" in address else socket.AF_INET), socket.SOCK_DGRAM)
        self._lab.closing.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.bind((address, port))
        return sock

    def tap(self, interface: str) -> Tap:
        """Return a tap on an interface, closed with the lab."""
        with self.within():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._lab.closing.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        sock.bind((interface, 3))
        return Tap(sock)

    def mac(self, interface: str) -> str:
        """Return the link-layer address of an interface."""
        return run("ip", "-n", self.namespace, "-o", "link", "show", interface).split("link/ether ")[1].split()[0]


class Lab:
    """A set of nodes that lives as long as the `with` block."""

    def __init__(self) -> None:
        self.tag = f"il{os.getpid()}-{token_hex(2)}"
        self.nodes: dict[str, Node] = {}
        self.closing = contextlib.ExitStack()
        self.children: list[int] = []
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def node(self, name: str) -> Node:
        """Add a namespace with loopback up and without duplicate address detection."""
        node = self.nodes[name] = Node(self, name)
        run("ip", "netns", "add", node.namespace)
        node.ip("link set lo up")
        node.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        return node

    def link(self, a: Node, a_interface: str, b: Node, b_interface: str, *, mtu: int = 1500) -> None:
        """Join two nodes by a veth pair, both ends up."""
        a.ip(f"link add {a_interface} mtu {mtu} type veth peer name {b_interface} mtu {mtu} netns {b.namespace}")
        a.ip(f"link set {a_interface} up")
        b.ip(f"link set {b_interface} up")

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """End this program with the lab."""
        self._programs.append(process)

    def close(self) -> None:
        """Kill what runs, close what is open, remove the namespaces; safe to call twice."""
        for pid in self.children[:]:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.children.clear()
        for process in self._programs:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        self._programs.clear()
        self.closing.close()
        for node in self.nodes.values():
            run("ip", "netns", "del", node.namespace, check=False)
        self.nodes.clear()


def drain(sock: socket.socket, expected: int, wait_s: float, *, answer: bool = False) -> int:
    """Return how many datagrams arrive before `expected` or `wait_s` is reached; `answer` sends each one back."""
    got, until = 0, time.monotonic() + wait_s
    while got < expected and select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
        with contextlib.suppress(OSError):
            data, where = sock.recvfrom(65536)
            got += 1
            if answer:
                sock.sendto(data, where)
    return got


def eventually(claim: Callable[[], bool], *, within_s: float) -> bool:
    """Return whether `claim` comes true within `within_s`, looking every 10 ms.

    The time is that of a machine with a processor to spare: on a busy one it is longer, up to BUSIEST times.
    """
    start = time.monotonic()
    while not claim():
        if time.monotonic() > start + within_s * busy():
            return False
        time.sleep(0.01)
    return True


def busy() -> float:
    """Return how many processes want each processor, from 1 for an idle machine to BUSIEST."""
    return min(BUSIEST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

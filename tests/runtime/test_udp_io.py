"""Runs of datagrams in one system call, and back, over loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.udp_io import MAX_RUN_BYTES, MAX_RUN_SEGMENTS, RunSender, UdpPort, drop_reason, open_udp_4500
from ipsecd.sa import Endpoint, Path

FAMILIES = [("127.0.0.1", "127.0.0.2"), ("::1", "::1")]


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[UdpPort, UdpPort]]:
    here, there = (UdpPort(address, open_udp_4500(address, 0, port=0)) for address in request.param)
    yield here, there
    here.sock.close()
    there.sock.close()


def test_mixed_sizes_arrive_each_as_it_was(ports: tuple[UdpPort, UdpPort]) -> None:
    here, there = ports
    sizes = [1400] * 5 + [600] + [1400, 100, 100, 1] + [9, 1400] + [70] * 150
    sent = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    sender, path = collector(here, there)
    for datagram in sent:
        sender.add(path, 0, (datagram,))
    sender.flush()
    assert receive_all(there) == [(datagram, 0) for datagram in sent]


def test_tos_travels_with_each_run(ports: tuple[UdpPort, UdpPort]) -> None:
    here, there = ports
    sender, path = collector(here, there)
    marks = [0, 0, 0xB8, 0xB9, 0xB9, 0x03]
    for tos in marks:
        sender.add(path, tos, (b"x" * 50,))
    sender.flush()
    assert receive_all(there) == [(b"x" * 50, tos) for tos in marks]


def test_runs_end_at_the_limits_of_the_kernel() -> None:
    runs: list[list[int]] = []
    path = Path(Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500))
    sender = RunSender(lambda _: Recording(runs), lambda *_: None)  # type: ignore[arg-type, return-value]
    for size in [10] * (MAX_RUN_SEGMENTS + 1) + [2000] * 40 + [5, 10]:
        sender.add(path, 0, (bytes(size),))
    sender.flush()
    assert all(len(run) <= MAX_RUN_SEGMENTS and sum(run) <= MAX_RUN_BYTES for run in runs)
    assert all(run[0] >= size for run in runs for size in run)
    assert all(size == run[0] for run in runs for size in run[:-1])
    assert [size for run in runs for size in run] == [10] * (MAX_RUN_SEGMENTS + 1) + [2000] * 40 + [5, 10]
    assert len(runs) == 5


def test_received_path_names_both_ends_and_is_one_object(ports: tuple[UdpPort, UdpPort]) -> None:
    here, there = ports
    paths = []
    for _ in range(2):
        here.send([b"x"], there.local, 0)
        received = wait(there)
        paths.append(received)
    assert paths[0] == Path(there.local, here.local)
    assert paths[0] is paths[1]


def test_run_that_the_path_takes_only_singly_is_sent_singly() -> None:
    sent: list[list[int]] = []
    path = Path(Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500))
    sender = RunSender(lambda _: NoOffload(sent), lambda *_: None)  # type: ignore[arg-type, return-value]
    for _ in range(3):
        sender.add(path, 0, (bytes(100),))
    sender.flush()
    assert sent == [[100], [100], [100]]


def test_path_without_a_socket_counts_its_datagrams() -> None:
    dropped: list[tuple[DropReason, int]] = []
    sender = RunSender(lambda _: None, lambda reason, count: dropped.append((reason, count)))
    path = Path(Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500))
    for _ in range(3):
        sender.add(path, 0, (b"x",))
    sender.flush()
    assert dropped == [(DropReason.SEND_FAILED, 3)]


@pytest.mark.parametrize(("number", "reason"), [
    (errno.EAGAIN, DropReason.SEND_QUEUE_FULL), (errno.ENOBUFS, DropReason.SEND_QUEUE_FULL),
    (errno.EMSGSIZE, DropReason.TOO_BIG), (errno.EPERM, DropReason.SEND_FAILED),
    (errno.ENETUNREACH, DropReason.SEND_FAILED)])
def test_errors_of_the_kernel_have_names(number: int, reason: DropReason) -> None:
    assert drop_reason(OSError(number, "")) is reason


def test_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OSError):
        open_udp_4500("192.0.2.1", 0, port=0)


class Recording:
    """A port that notes the sizes of each run."""

    joins = True

    def __init__(self, runs: list[list[int]]) -> None:
        self._runs = runs

    def send(self, datagrams: list[bytes], remote: Endpoint, tos: int) -> None:
        self._runs.append([len(datagram) for datagram in datagrams])


class NoOffload(Recording):
    """The same on a device without checksum offload."""

    def send(self, datagrams: list[bytes], remote: Endpoint, tos: int) -> None:
        if len(datagrams) > 1:
            raise OSError(errno.EIO, "no offload")
        super().send(datagrams, remote, tos)


def collector(here: UdpPort, there: UdpPort) -> tuple[RunSender, Path]:
    def never(reason: DropReason, count: int) -> None:
        raise AssertionError(reason)
    return RunSender(lambda _: here, never), Path(here.local, there.local)


def receive_all(port: UdpPort) -> list[tuple[bytes, int]]:
    """Loopback delivers before sendmsg returns, so what is there is all."""
    found = []
    while (received := port.receive()) is not None:
        found += [(received.data[at:at + received.segment_bytes], received.tos)
                  for at in range(0, len(received.data), received.segment_bytes)]
    return found


def wait(port: UdpPort) -> Path:
    port.sock.settimeout(2)
    try:
        port.sock.recv(1, socket.MSG_PEEK)
    finally:
        port.sock.setblocking(False)
    received = port.receive()
    assert received is not None
    return received.path

"""UDP/500 over loopback sockets on ports of the kernel's choice; binding port 500 itself needs privileges."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from ipsecd.drops import DropReason
from ipsecd.runtime import clock
from ipsecd.runtime.udp import IkePort, open_ike_port
from ipsecd.sa import Endpoint, Path

Body = Callable[[IkePort, list[tuple[Path, bytes]], asyncio.Event], Awaitable[None]]


def serve(body: Body, address: str = "127.0.0.1", then: Callable[[Path, bytes], None] | None = None) -> None:
    async def limited() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind((address, 0))
        port, got, news = IkePort(sock), [], asyncio.Event()

        def receive(path: Path, data: bytes) -> None:
            got.append((path, data))
            news.set()
            if then is not None:
                then(path, data)

        async with asyncio.timeout(5):
            reader = asyncio.create_task(port.run(receive))
            await asyncio.sleep(0)
            await body(port, got, news)
            port.close()
            await reader                     # ends by itself
    asyncio.run(limited())


async def first_datagram(port: IkePort, news: asyncio.Event) -> None:
    """Wait until the port reads."""
    with client() as peer:
        peer.sendto(b"", ("127.0.0.1", port.local.port))
        await news.wait()
    news.clear()


def client(address: str = "127.0.0.1") -> socket.socket:
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, 0))
    s.settimeout(2)
    return s


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagram_comes_with_both_ends_and_the_answer_goes_back(address: str) -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        with client(address) as peer:
            peer.sendto(b"request", (address, port.local.port))
            await news.wait()
            [(path, data)] = got
            assert data == b"request"
            assert path == Path(port.local, Endpoint(*peer.getsockname()[:2]))
            assert port.send(path.remote, b"answer") is None
            assert peer.recv(100) == b"answer"
    serve(body, address)


def test_burst_waits_in_the_kernel_and_not_in_user_space() -> None:
    depth: list[int] = []

    class Measured(asyncio.Queue):
        def put_nowait(self, item) -> None:
            super().put_nowait(item)
            depth.append(self.qsize())

    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        await first_datagram(port, news)
        got.clear()
        assert port._stream is not None
        queue = port._stream._recvq
        queue.__class__ = Measured
        with client() as peer:
            for i in range(200):
                peer.sendto(i.to_bytes(2, "big"), ("127.0.0.1", port.local.port))
        while len(got) < 200:
            news.clear()
            await news.wait()
        assert [int.from_bytes(d, "big") for _, d in got] == list(range(200))
        assert max(depth) <= 1
    serve(body)


def test_what_the_kernel_drops_for_want_of_room_is_counted() -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        await first_datagram(port, news)
        assert port.overflow == 0
        port._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with client() as peer:
            for _ in range(100):                     # in one turn of the loop: nobody reads
                peer.sendto(bytes(1000), ("127.0.0.1", port.local.port))
        got.clear()
        dropped = port.overflow
        assert dropped > 90
        while len(got) < 100 - dropped:
            news.clear()
            await news.wait()
    serve(body)


def test_datagrams_that_are_work_leave_others_their_turn() -> None:
    taken_at: list[int] = []
    turns = 0

    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        nonlocal turns
        await first_datagram(port, news)
        taken_at.clear()
        with client() as peer:
            for _ in range(10):
                peer.sendto(b"an IKE_SA_INIT", ("127.0.0.1", port.local.port))
        while len(taken_at) < 10:
            turns += 1
            await asyncio.sleep(0)
        assert len(set(taken_at)) == 10

    def work(path: Path, data: bytes) -> None:
        taken_at.append(turns)
        until = clock.now() + clock.TURN_S
        while clock.now() < until:
            pass

    serve(body, then=work)


def test_icmp_error_does_not_end_the_reader() -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        await first_datagram(port, news)
        got.clear()
        with client() as closed:
            nobody = Endpoint(*closed.getsockname())
        port._socket.setsockopt(socket.IPPROTO_IP, 11, 1)         # IP_RECVERR: show what is usually hidden
        assert port.send(nobody, b"x") is None                    # port unreachable comes back
        with client() as peer:
            for _ in range(3):
                news.clear()
                peer.sendto(b"still here", ("127.0.0.1", port.local.port))
                await news.wait()
                port.send(nobody, b"x")
        assert [d for _, d in got] == [b"still here"] * 3
    serve(body)


def test_send_that_the_kernel_refuses_is_a_reason_and_not_an_exception() -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        assert port.send(Endpoint("127.0.0.1", 9), bytes(70_000)) is DropReason.SEND_FAILED      # EMSGSIZE
        assert port.send(Endpoint("2001:db8::1", 500), b"x") is DropReason.SEND_FAILED           # another family
    serve(body)


def test_send_after_close_is_a_reason_too() -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        await first_datagram(port, news)
        port.close()
        port.close()
        await asyncio.sleep(0)               # the transport closes its socket in the next turn
        assert port._socket.fileno() < 0
        assert port.send(Endpoint("127.0.0.1", 9), b"x") is DropReason.SEND_FAILED
    serve(body)


def test_close_while_the_reader_begins_ends_it() -> None:
    async def body(port: IkePort, got: list, news: asyncio.Event) -> None:
        assert port._stream is None          # serve() closes the port and waits for the reader
    serve(body)


def test_port_closed_before_it_is_read_closes_its_socket() -> None:
    port = IkePort(client())
    port.close()
    assert port._socket.fileno() < 0


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK and port 500 need CAP_NET_ADMIN and CAP_NET_BIND_SERVICE")
@pytest.mark.parametrize("address", ["127.77.0.1", "::1"])
def test_ike_port_is_marked_and_never_sets_df(address: str) -> None:
    sock = open_ike_port(address, 0x01000000)
    try:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x01000000
        assert sock.getsockname()[1] == 500
        if ":" not in address:
            assert sock.getsockopt(socket.IPPROTO_IP, 10) == 0        # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
        with pytest.raises(OSError):
            open_ike_port(address, 0x01000000)                        # taken; and nothing leaks
    finally:
        sock.close()


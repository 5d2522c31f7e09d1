"""Resolver on the host's own loopback: any 127.0.0.0/8 address answers from 127.0.0.1, without a packet leaving."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from types import SimpleNamespace

import pytest

from ipsecd.runtime.resolver import MAX_ADDRESSES, Answers, Resolver
from ipsecd.sa import Endpoint, Path

LOOP = frozenset({"127.0.0.1", "127.0.0.2", "::1"})


def answer(*addresses: str) -> Answers:
    return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM, 17, "", (a, 500)) for a in addresses]


def find(resolver: Resolver, *names: str, local: frozenset[str] = LOOP) -> list[tuple[str, str]]:
    paths = asyncio.run(resolver.paths(names, local))
    assert all(p.local.port == p.remote.port == 500 for p in paths)
    return [(p.local.address, p.remote.address) for p in paths]


def test_addresses_are_tried_in_the_order_configured_each_once() -> None:
    assert find(Resolver(0, ()), "127.0.0.9", "127.0.0.8", "127.0.0.9", "::1") == [
        ("127.0.0.1", "127.0.0.9"), ("127.0.0.1", "127.0.0.8"), ("::1", "::1")]


def test_names_keep_their_place_among_addresses_and_the_order_of_the_answer() -> None:
    resolver = Resolver(0, (), look_up=lambda name: answer("127.0.0.7", "127.0.0.6", "127.0.0.7"))
    assert [r for _, r in find(resolver, "127.0.0.9", "hq.example.net")] == ["127.0.0.9", "127.0.0.7", "127.0.0.6"]


def test_listen_addresses_follow_the_kernels_choice_and_keep_to_the_family() -> None:
    assert find(Resolver(0, ("127.0.0.2", "127.0.0.1", "::1")), "127.0.0.9") == [
        ("127.0.0.1", "127.0.0.9"), ("127.0.0.2", "127.0.0.9")]
    assert find(Resolver(0, ("127.0.0.2",)), "127.0.0.9") == [("127.0.0.2", "127.0.0.9")]
    assert find(Resolver(0, ("127.0.0.3",)), "127.0.0.9") == []       # configured, not held


def test_address_without_a_socket_of_ours_is_never_proposed() -> None:
    assert find(Resolver(0, ()), "127.0.0.9", local=frozenset({"127.0.0.2"})) == [("127.0.0.2", "127.0.0.9")]
    assert find(Resolver(0, ()), "127.0.0.9", local=frozenset()) == []


def test_name_that_does_not_resolve_gives_nothing_and_hides_no_other() -> None:
    def look_up(name: str) -> Answers:
        raise UnicodeError if name == "bad" else socket.gaierror(socket.EAI_NONAME, "no such name")
    assert [r for _, r in find(Resolver(0, (), look_up=look_up), "gone.invalid", "bad", "127.0.0.8")] == ["127.0.0.8"]


def test_name_with_hundreds_of_addresses_is_bounded() -> None:
    many = [f"127.0.{i}.1" for i in range(1, 200)]
    assert len(find(Resolver(0, (), look_up=lambda _: answer(*many)), "many.example.net")) == MAX_ADDRESSES


def test_dead_resolver_delays_its_name_only_and_holds_one_thread() -> None:
    release = threading.Event()

    def look_up(name: str) -> Answers:
        if name == "dead.example.net":
            release.wait(10)
        return answer("127.0.0.5")

    async def body() -> None:
        before = threading.active_count()
        resolver = Resolver(0, (), look_up=look_up, timeout_s=0.05)
        for _ in range(10):
            assert await resolver.paths(["dead.example.net"], LOOP) == ()
        assert threading.active_count() <= before + 1
        found = await Resolver(0, (), look_up=look_up, timeout_s=5).paths(["live.example.net"], LOOP)
        assert found == (Path(Endpoint("127.0.0.1", 500), Endpoint("127.0.0.5", 500)),)
        late = asyncio.create_task(Resolver.paths(resolver, ["dead.example.net"], LOOP))
        await asyncio.sleep(0)
        release.set()
        assert [p.remote.address for p in await late] == ["127.0.0.5"]

    asyncio.run(body())


def test_lookup_that_ends_after_the_loop_is_nobodys_business() -> None:
    release, done = threading.Event(), threading.Event()

    def look_up(name: str) -> Answers:
        release.wait(10)
        done.set()
        return answer("127.0.0.5")

    assert find(Resolver(0, (), look_up=look_up, timeout_s=0.01), "dead.example.net") == []
    release.set()
    assert done.wait(5)


def test_cancelled_question_leaves_the_lookup_to_the_next() -> None:
    release = threading.Event()

    def look_up(name: str) -> Answers:
        release.wait(10)
        return answer("127.0.0.5")

    async def body() -> None:
        resolver = Resolver(0, (), look_up=look_up)
        first = asyncio.create_task(resolver.paths(["hq.example.net"], LOOP))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(resolver.paths(["hq.example.net"], LOOP))
        await asyncio.sleep(0)
        release.set()
        assert len(await second) == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(body())


def test_kernel_without_a_family_hides_no_address_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.socket

    def only_ipv4(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:            # what ipv6.disable=1 answers
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, kind)
    resolver = Resolver(0, (), look_up=lambda _: answer("::1", "127.0.0.7"))
    monkeypatch.setattr("ipsecd.runtime.resolver.socket", SimpleNamespace(
        socket=only_ipv4, AF_INET=socket.AF_INET, AF_INET6=socket.AF_INET6, SOCK_DGRAM=socket.SOCK_DGRAM))
    assert find(resolver, "hq.example.net") == [("127.0.0.1", "127.0.0.7")]


def test_lookup_that_gets_no_thread_is_a_failed_one_and_the_next_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver(0, (), look_up=lambda name: answer("127.0.0.9"))
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        assert find(resolver, "hq.example.net") == []
    assert find(resolver, "hq.example.net") == [("127.0.0.1", "127.0.0.9")]

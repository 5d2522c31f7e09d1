"""Fetching revocation evidence from a server on loopback: what is asked, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from ipsecd.effects import FetchRevocation, RevocationQuery
from ipsecd.ike.crypto.revocation import MAX_EVIDENCE_BYTES
from ipsecd.policy import AuthPolicy, Credential
from ipsecd.runtime.revocation import FRESH_S, SILENT_S, RevocationFetcher, is_outside
from ipsecd.runtime.revocation_store import MAX_CACHED, RevocationStore
from ipsecd.runtime.staples import keep_at_hand
from tests.exchange.test_auth_cert import ROOT
from tests.support.exchange import policy, policy_a
from tests.support.pki import issue

Body = Callable[["World"], Awaitable[None]]


@dataclass
class World:
    """A server with an answer, a clock that stands, and the fetcher."""

    url: str = ""
    answer: bytes = b"a list"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    now: float = 1000.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    fetcher: RevocationFetcher = field(init=False)

    answer_s: float = 5.0

    def made(self, state: str | None = None, *, outside: bool = True) -> RevocationFetcher:
        return RevocationFetcher(0, state, outside=(lambda _: True) if outside else None, now=lambda: self.now,
                                 answer_s=self.answer_s)

    def query(self, path: str = "/crl", body: bytes = b"", *, usable: bool = True) -> RevocationQuery:
        return RevocationQuery(self.url + path, body, lambda data: usable and data.startswith(b"a list"))

    async def ask(self, *queries: RevocationQuery) -> tuple[bytes | None, ...]:
        return await self.fetcher.answer(FetchRevocation(1, queries or (self.query(),)))

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, await request.read()))
        self.heard.set()
        await self.gate.wait()
        return web.Response(body=self.answer, status=self.status, headers=self.headers)


def run(body: Body, *, answer_s: float = 5.0, outside: bool = True) -> None:
    async def main() -> None:
        world = World(answer_s=answer_s)
        world.gate.set()
        world.fetcher = world.made(outside=outside)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", world.serve)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        world.url = f"http://{host}:{port}"
        try:
            await body(world)
        finally:
            await world.fetcher.close()
            await runner.cleanup()
    asyncio.run(main())


def test_list_is_fetched_once_and_again_when_it_is_no_longer_fresh() -> None:
    async def body(world: World) -> None:
        assert await world.ask() == await world.ask() == (b"a list",)
        assert world.asked == [("GET", b"")]
        world.now += FRESH_S + 1
        world.answer = b"a list, newer"
        assert await world.ask() == (b"a list, newer",)
    run(body)


def test_list_that_cannot_be_renewed_serves_as_long_as_it_is_usable() -> None:
    async def body(world: World) -> None:
        await world.ask()
        world.now += FRESH_S + 1
        world.status = 500
        assert await world.ask() == (b"a list",)
        assert len(world.asked) == 2
    run(body)


@pytest.mark.parametrize(("echo", "came"), [(True, b"a list"), (False, None)])
def test_ocsp_is_asked_with_a_new_nonce_and_an_answer_to_another_is_dropped(echo: bool, came: bytes | None) -> None:
    async def body(world: World) -> None:
        nonces: list[bytes] = []
        query = replace(world.query(body=b"request"), asking=lambda nonce: b"request with " + nonce,
                        echoes=lambda _, nonce: not nonces.append(nonce) and echo)
        assert await world.ask(query) == (came,)
        world.now += FRESH_S + SILENT_S
        await world.ask(query)
        assert world.asked == [("POST", b"request with " + nonce) for nonce in nonces]
        assert len(set(nonces)) == 2
        assert {len(nonce) for nonce in nonces} == {32}
    run(body)


def test_ocsp_is_asked_by_post_with_its_request() -> None:
    async def body(world: World) -> None:
        assert await world.ask(world.query(body=b"request")) == (b"a list",)
        assert world.asked == [("POST", b"request")]
    run(body)


def test_many_that_wait_for_one_list_ask_once() -> None:
    async def body(world: World) -> None:
        world.gate.clear()
        waiting = [asyncio.create_task(world.ask()) for _ in range(20)]
        await world.heard.wait()
        world.gate.set()
        assert await asyncio.gather(*waiting) == [(b"a list",)] * 20
        assert len(world.asked) == 1
    run(body)


@pytest.mark.parametrize("case", ["error", "redirect", "too large", "not usable"])
def test_answer_that_is_no_evidence_is_none_and_not_asked_for_again_at_once(case: str) -> None:
    async def body(world: World) -> None:
        world.status = {"error": 404, "redirect": 302}.get(case, 200)
        world.headers = {"Location": world.url + "/elsewhere"} if case == "redirect" else {}
        world.answer = b"a list" + bytes(MAX_EVIDENCE_BYTES) if case == "too large" else b"a list"
        query = world.query(usable=case != "not usable")
        assert await world.ask(query) == (None,)
        asked = len(world.asked)
        await world.ask(query)
        assert len(world.asked) == asked == 1
        world.now += SILENT_S + 1
        await world.ask(query)
        assert len(world.asked) == 2
    run(body)


def test_server_that_does_not_answer_costs_a_bounded_time() -> None:
    async def body(world: World) -> None:
        world.gate.clear()
        assert await world.ask() == (None,)
        world.gate.set()
    run(body, answer_s=0.2)


def test_nothing_is_asked_of_this_host() -> None:
    async def body(world: World) -> None:
        assert await world.ask() == (None,)
        assert not world.asked
    run(body, outside=False)


def test_list_outlives_a_restart_while_its_server_is_away(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.fetcher = world.made(str(tmp_path))
        await world.ask()
        world.fetcher = world.made(str(tmp_path))
        world.answer = b"a list, newer"
        assert await world.ask() == (b"a list, newer",)      # asked for again all the same
        world.fetcher = world.made(str(tmp_path))
        world.status = 500
        assert await world.ask() == (b"a list, newer",)
        world.fetcher = world.made(str(tmp_path))
        assert await world.ask(world.query("/other")) == (None,)
    run(body)


def test_old_list_serves_while_its_server_holds_the_request(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        RevocationStore(tmp_path).save((world.url + "/crl", b""), b"a list")
        world.fetcher = world.made(str(tmp_path))
        world.gate.clear()
        assert await world.ask() == (b"a list",)
        world.gate.set()
    run(body, answer_s=0.5)


def test_store_keeps_the_newest_within_its_limits_and_minds_no_disk(tmp_path: Path) -> None:
    store = RevocationStore(tmp_path)
    for number in range(MAX_CACHED + 3):
        store.save((f"http://x/{number}", b""), b"%d" % number)
        file = max((tmp_path / "revocation").iterdir(), key=lambda p: p.stat().st_mtime_ns)
        os.utime(file, (number, number))
    assert len(list((tmp_path / "revocation").iterdir())) == MAX_CACHED
    assert store.load(("http://x/0", b"")) is None
    assert store.load((f"http://x/{MAX_CACHED + 2}", b"")) == b"%d" % (MAX_CACHED + 2)
    assert store.load((f"http://x/{MAX_CACHED + 2}", b"body")) is None
    (tmp_path / "file").write_bytes(b"")
    nowhere = RevocationStore(tmp_path / "file")
    nowhere.save(("http://x/", b""), b"data")
    assert nowhere.load(("http://x/", b"")) is None


@pytest.mark.parametrize(("address", "outside"), [
    ("192.0.2.1", True), ("10.0.0.1", True), ("2001:db8::1", True), ("fd00::1", True), ("127.0.0.1", False),
    ("169.254.169.254", False), ("fe80::1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("0.0.0.0", False),
    ("224.0.0.1", False)])
def test_requests_go_only_to_addresses_of_the_network(address: str, outside: bool) -> None:
    assert is_outside(ip_address(address)) == outside


def test_what_only_helps_is_taken_from_what_is_at_hand_and_fetched_for_the_next_time() -> None:
    # A slow responder for our own certificate must not delay every peer's IKE_AUTH.
    async def body(world: World) -> None:
        def ask() -> Awaitable[tuple[bytes | None, ...]]:
            return world.fetcher.answer(FetchRevocation(1, (world.query(),), at_hand=True))

        world.gate.clear()
        async with asyncio.timeout(10):                # the request itself has a minute
            assert await ask() == (None,)
        world.gate.set()
        await asyncio.gather(*world.fetcher._running.values())
        assert await ask() == (b"a list",)
        world.gate.clear()
        world.now += FRESH_S + 1
        assert await ask() == (b"a list",)             # its renewal is under way
        assert len(world.asked) == 2
        world.gate.set()
    run(body, answer_s=60.0)


def test_response_about_our_certificate_is_at_hand_before_anybody_asks_for_it() -> None:
    async def body(world: World) -> None:
        aia = x509.AuthorityInformationAccess([x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(world.url + "/ocsp"))])
        own = issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",), extra=((aia, False),))
        credential = Credential((own.der,), own.pkcs8, issuer=ROOT.der)
        entry = replace(policy_a().peers[0], auth=AuthPolicy(credential))
        keeping = asyncio.create_task(keep_at_hand(world.fetcher, lambda: policy(entry, replace(entry, name="again"))))
        async with asyncio.timeout(10):
            await world.heard.wait()
        assert [method for method, _ in world.asked] == ["POST"]
        keeping.cancel()
    run(body)

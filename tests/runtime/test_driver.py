"""The driver on a real loop, between a scripted gateway and an engine that writes down what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.drops import DropReason
from ipsecd.effects import (
    AbandonHeld,
    Effect,
    Emit,
    FetchRevocation,
    InstallSa,
    RemoveSa,
    Resolve,
    SendIke,
    SendKeepalive,
    SetPathMtu,
    UpdatePath,
    UseOutbound,
    Work,
)
from ipsecd.events import Event, LocalFault, Warned
from ipsecd.runtime import clock
from ipsecd.runtime.driver import MAX_BATCH, MAX_DUE, MAX_REPORTS, Driver, describe
from ipsecd.runtime.dummies import Dummies
from ipsecd.runtime.entropy import SystemRng
from ipsecd.sa import Deadline, Endpoint, LinkSize, Path, SaStats
from tests.support.esp_packets import CHILD, pair

PLAIN = Path(Endpoint("192.0.2.1", 500), Endpoint("203.0.113.7", 500))
FLOATED = Path(Endpoint("192.0.2.1", 4500), Endpoint("203.0.113.7", 4500))


class ScriptedGateway:
    """Returns the effects it was given, and writes down what it was told."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.told: list[tuple[object, ...]] = []
        self.news = asyncio.Event()
        self.deadline: Deadline | None = None
        self.fault: Exception | None = None
        self.busy_s = 0.0                # what each entry takes

    def __getattr__(self, name: str) -> Callable[..., None]:
        def entry(*args: object, **fields: object) -> None:
            self.told.append((name, *args[:-1], *fields.values()))
            self.news.set()
            until = clock.now() + self.busy_s
            while clock.now() < until:
                pass
            if self.fault is not None:
                raise self.fault
        return entry

    def take_effects(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def next_deadline(self) -> Deadline | None:
        deadline, self.deadline = self.deadline, None
        return deadline


class WritingEngine:
    """Writes commands down; `broken` names the command that fails."""

    def __init__(self, told: list[tuple[object, ...]]) -> None:
        self.told = told
        self.broken = ""
        self.last = (SaStats(packets_in=3, bytes_in=300, last_in=5.0), {DropReason.ESP_REPLAYED: 2})

    def __getattr__(self, name: str) -> Callable[..., object]:
        def command(*args: object) -> object:
            self.told.append((name, *args))
            if name == self.broken:
                raise OSError("secret bytes 0123456789abcdef")
            return self.last if name == "remove_sa" else None
        return command


class Bench:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.gateway, self.told, self.events, self.resolves = ScriptedGateway(), [], [], []
        self.engine = WritingEngine(self.told)
        self.plain: DropReason | None = None
        self.changed = 0
        self.news = asyncio.Event()
        self.driver = Driver(self.gateway, pool, publish=self.publish, resolve=self.resolves.append,  # type: ignore[arg-type]
                             fetch=lambda effect, done: done(effect.id, (b"a list",)),
                             send_plain=self.send_plain, pairs_changed=self.pairs_changed,
                             dummies=Dummies(asyncio.get_running_loop(), SystemRng(), send=self.send_dummy,
                                             largest=lambda child: 0))
        self.driver.attach(self.engine)  # type: ignore[arg-type]

    def publish(self, event: Event) -> None:
        self.events.append(event)
        self.told.append(("publish", event))

    def send_plain(self, path: Path, datagram: bytes) -> DropReason | None:
        self.told.append(("send_plain", path, datagram))
        return self.plain

    def send_dummy(self, spi_in: int, size: int) -> None:
        self.told.append(("send_dummy", spi_in, size))

    def pairs_changed(self) -> None:
        self.changed += 1
        self.news.set()

    def do(self, *effects: Effect) -> None:
        self.gateway.effects = list(effects)
        self.driver.enter(lambda now: None)


def run(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            with ThreadPoolExecutor(1) as pool:
                bench = Bench(pool)
                await body(bench)
                bench.driver.close()
    asyncio.run(limited())


def test_effects_are_done_in_order_each_by_its_command() -> None:
    sa = pair()
    warned = Warned("a", "b")

    async def body(bench: Bench) -> None:
        bench.do(SendIke(PLAIN, b"1"), SendIke(FLOATED, b"2"), SendKeepalive(FLOATED), InstallSa(sa),
                 UseOutbound(CHILD, sa.spi_in), UpdatePath(sa.spi_in, PLAIN), Emit(warned), AbandonHeld(CHILD),
                 RemoveSa(sa.spi_in), Resolve("hq", ("hq.example.net",)))
        assert bench.told == [
            ("send_plain", PLAIN, b"1"), ("send_ike", FLOATED, b"2"), ("send_keepalive", FLOATED), ("install_sa", sa),
            ("use_outbound", CHILD, sa.spi_in), ("update_path", sa.spi_in, PLAIN), ("publish", warned),
            ("abandon_held", CHILD), ("remove_sa", sa.spi_in)]
        assert bench.resolves == [Resolve("hq", ("hq.example.net",))]
        assert bench.changed == 3
    run(body)


def test_effect_that_fails_is_counted_and_the_others_still_happen() -> None:
    async def body(bench: Bench) -> None:
        bench.engine.broken = "use_outbound"
        sa = pair()
        bench.do(InstallSa(sa), UseOutbound(CHILD, sa.spi_in), SendKeepalive(FLOATED))
        assert [t[0] for t in bench.told] == ["install_sa", "use_outbound", "publish", "send_keepalive"]
        assert bench.driver.drops[DropReason.IKE_LOCAL_ERROR] == 1
        [fault] = bench.events
        assert isinstance(fault, LocalFault)
        assert "0123456789abcdef" not in repr(fault)
    run(body)


def test_gateway_that_raises_becomes_a_fault_and_its_effects_still_happen() -> None:
    async def body(bench: Bench) -> None:
        bench.gateway.fault = ValueError("key 0123456789abcdef")
        bench.gateway.effects = [SendKeepalive(FLOATED)]
        bench.driver.plain_received(PLAIN, b"x")
        assert bench.told[-1] == ("send_keepalive", FLOATED)
        assert bench.driver.drops[DropReason.IKE_LOCAL_ERROR] == 1
        [fault] = bench.events
        assert isinstance(fault, LocalFault)
        assert "0123456789abcdef" not in repr(fault)
    run(body)


def test_work_comes_back_with_its_value_on_the_loop() -> None:
    async def body(bench: Bench) -> None:
        bench.do(Work(7, lambda: 6 * 7))
        await bench.gateway.news.wait()
        assert bench.gateway.told == [("work_done", 7, 42)]
    run(body)


def test_evidence_comes_back_to_the_exchange_that_waits_for_it() -> None:
    async def body(bench: Bench) -> None:
        bench.do(FetchRevocation(9, ()))
        assert bench.gateway.told == [("work_done", 9, (b"a list",))]
    run(body)


def test_work_comes_back_with_its_exception() -> None:
    async def body(bench: Bench) -> None:
        error = ArithmeticError("no")

        def job() -> object:
            raise error
        bench.do(Work(8, job))
        await bench.gateway.news.wait()
        assert bench.gateway.told == [("work_done", 8, error)]
        assert bench.events == []
    run(body)


def test_work_that_ends_after_the_driver_is_dropped() -> None:
    async def body(bench: Bench) -> None:
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        bench.do(Work(1, lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(5)), Work(2, lambda: 0))
        bench.driver._pool.shutdown(wait=False, cancel_futures=True)     # the second never starts
        bench.driver._closed = True
        release.set()
        await asyncio.to_thread(bench.driver._pool.shutdown)
        assert bench.gateway.told == []
        bench.driver._closed = False
    run(body)


def test_refused_datagrams_are_counted_by_reason() -> None:
    async def body(bench: Bench) -> None:
        bench.plain = DropReason.SEND_QUEUE_FULL
        bench.do(SendIke(PLAIN, b"1"), SendIke(PLAIN, b"2"))
        assert bench.driver.drops[DropReason.SEND_QUEUE_FULL] == 2
    run(body)


def test_flood_of_ike_is_bounded_counted_and_taken_in_turns() -> None:
    async def body(bench: Bench) -> None:
        for i in range(MAX_REPORTS + 10):
            bench.driver.ike_datagram(FLOATED, i.to_bytes(2, "big"))
        bench.driver.acquire(CHILD, b"packet")               # a report is never dropped
        assert bench.driver.drops[DropReason.IKE_QUEUE_OVERFLOW] == 10
        turns = []
        while len(bench.gateway.told) < MAX_REPORTS + 1:
            before = len(bench.gateway.told)
            await asyncio.sleep(0)                           # one turn: others run in between
            turns.append(len(bench.gateway.told) - before)
        assert max(turns) <= MAX_BATCH
        assert bench.gateway.told[0] == ("ike_received", b"\0\0", FLOATED)
        assert bench.gateway.told[-1] == ("acquire", CHILD)
    run(body)


def test_datagrams_that_are_work_leave_others_their_turn() -> None:
    async def body(bench: Bench) -> None:
        bench.gateway.busy_s = clock.TURN_S
        for _ in range(10):
            bench.driver.ike_datagram(FLOATED, b"an IKE_AUTH")
        for taken in range(10):
            assert len(bench.gateway.told) == taken
            await asyncio.sleep(0)
    run(body)


def test_every_report_of_the_engine_reaches_its_entry() -> None:
    async def body(bench: Bench) -> None:
        d = bench.driver
        d.soft_lifetime(1, "bytes")
        d.hard_lifetime(2, "bytes")
        d.peer_address(3, FLOATED)
        d.first_inbound(4)
        d.unknown_spi(FLOATED, 5)
        d.large_outbound(6)
        await bench.gateway.news.wait()
        assert bench.gateway.told == [("soft_lifetime", 1), ("hard_lifetime", 2), ("peer_address", 3, FLOATED),
                                      ("first_inbound", 4), ("unknown_spi", FLOATED, 5),
                                      ("path_evidence", 6, None)]
    run(body)


def test_links_are_told_once_until_they_change_or_a_reload_asks_anew() -> None:
    async def body(bench: Bench) -> None:
        narrow, wide = LinkSize(1400), LinkSize(1500, 1300)
        for links in ({1: (FLOATED, wide), 2: (PLAIN, wide)}, {1: (FLOATED, wide), 2: (PLAIN, wide)},
                      {1: (FLOATED, narrow), 2: (FLOATED, wide)}):
            await bench.driver.links_measured(links)
        assert bench.gateway.told == [("path_evidence", 1, wide), ("path_evidence", 2, wide),
                                      ("path_evidence", 1, narrow), ("path_evidence", 2, wide)]
        bench.driver.forget_links()
        await bench.driver.links_measured({1: (FLOATED, narrow)})
        assert bench.gateway.told[4:] == [("path_evidence", 1, narrow)]
    run(body)


def test_sizes_of_many_paths_leave_others_their_turn() -> None:
    async def body(bench: Bench) -> None:
        measuring = asyncio.create_task(bench.driver.links_measured({n: (FLOATED, LinkSize(1500)) for n in range(100)}))
        turns = []
        while not measuring.done():
            before = len(bench.gateway.told)
            await asyncio.sleep(0)
            turns.append(len(bench.gateway.told) - before)
        assert sum(turns) == 100
        assert max(turns) <= MAX_DUE
    run(body)


def test_found_size_counts_for_esp_without_udp_too_until_no_pair_goes_there() -> None:
    async def body(bench: Bench) -> None:
        links = {1: (FLOATED, LinkSize(1500))}
        await bench.driver.links_measured(links)
        bench.do(SetPathMtu(FLOATED, 1300))
        assert bench.driver.path_mtus == {FLOATED: 1300, FLOATED.without_udp(): 1300}
        await bench.driver.links_measured(links)
        assert bench.driver.path_mtus[FLOATED] == 1300
        bench.do(SetPathMtu(FLOATED, 0))
        assert bench.driver.path_mtus == {}
        bench.do(SetPathMtu(FLOATED, 1300))
        await bench.driver.links_measured({})
        assert bench.driver.path_mtus == {}
    run(body)


def test_timer_calls_the_gateway_at_its_deadline() -> None:
    async def body(bench: Bench) -> None:
        bench.gateway.deadline = Deadline(clock.now() + 0.01, "test")
        bench.do()
        assert bench.gateway.told == []
        await bench.gateway.news.wait()
        assert bench.gateway.told == [("handle_timeout", MAX_DUE)]
    run(body)


def test_closed_driver_takes_nothing_more() -> None:
    async def body(bench: Bench) -> None:
        bench.driver.ike_datagram(FLOATED, b"queued")
        bench.driver._closed = True
        bench.driver.plain_received(PLAIN, b"x")
        await asyncio.sleep(0)
        assert bench.gateway.told == []
    run(body)


def test_counters_of_removed_pairs_add_up() -> None:
    async def body(bench: Bench) -> None:
        for spi in (0x100, 0x200, 0x300):
            sa = replace(pair(spi_in=spi))
            bench.do(InstallSa(sa), RemoveSa(spi))
        bench.do(RemoveSa(0x999))                            # never installed
        assert bench.driver.past[CHILD] == SaStats(packets_in=9, bytes_in=900, last_in=5.0)
        assert bench.driver.past_drops[CHILD] == {DropReason.ESP_REPLAYED: 6}
        assert bench.driver.pairs == {}
    run(body)


def test_pair_that_another_one_relieved_receives_a_little_longer() -> None:
    async def body(bench: Bench) -> None:
        bench.do(InstallSa(pair(spi_in=0x100)), RemoveSa(0x100, linger_s=0.02), InstallSa(pair(spi_in=0x200)),
                 RemoveSa(0x200, linger_s=60.0), InstallSa(pair(spi_in=0x200)))
        assert [c for c in bench.told if c[0] == "remove_sa"] == [("remove_sa", 0x200)]    # drawn again: its new pair's
        assert 0x100 in bench.driver.pairs
        bench.news.clear()
        await bench.news.wait()
        assert 0x100 not in bench.driver.pairs
        assert bench.told[-1] == ("remove_sa", 0x100)
        assert 0x200 in bench.driver.pairs
    run(body)


def test_moved_pair_is_shown_on_its_new_path() -> None:
    async def body(bench: Bench) -> None:
        sa = pair()
        bench.do(InstallSa(sa), UpdatePath(sa.spi_in, PLAIN), UpdatePath(0x999, PLAIN))
        assert bench.driver.pairs == {sa.spi_in: replace(sa, path=PLAIN)}
    run(body)


@pytest.mark.parametrize(("a", "b", "last"), [(None, None, None), (1.0, None, 1.0), (None, 2.0, 2.0), (3.0, 2.0, 3.0)])
def test_sum_of_counters_keeps_the_later_time(a: float | None, b: float | None, last: float | None) -> None:
    assert SaStats(last_in=a, lost_in=1) + SaStats(last_in=b, lost_in=2) == SaStats(last_in=last, lost_in=3)


def test_description_of_an_exception_names_its_place_and_no_value() -> None:
    def inner() -> None:
        raise ValueError(f"key {b'0123'!r} of {Failure(Cause.LOCAL_ERROR)}")
    try:
        inner()
    except ValueError as error:
        text = describe(error)
    assert text.startswith("ValueError at test_description_of_an_exception")
    assert ".inner:" in text
    assert "0123" not in text
    assert describe(KeyError("0123")) == "KeyError"

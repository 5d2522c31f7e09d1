"""Prometheus metrics: the status answer as `ipsecd_*` families, served over HTTP where `metrics.listen` is set.

Label values are names from the configuration, causes and drop reasons, never text of a peer: nobody outside can grow
the number of series.  Families are made from a status answer at each scrape, in a registry of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ipsecd.control.schema import ChildView, PeerView, StatusAnswer
from ipsecd.control.site import BACKLOG, BoundedSite
from ipsecd.errors import LocalError
from ipsecd.events import Event, LocalFault
from ipsecd.text import printable

_Labels = TypeVar("_Labels", bound=tuple[str, ...])

MAX_SCRAPERS = 8
CACHE_S = 1.0                       # scrapes closer together share one reading: anybody may ask


class StatusCollector(Collector):
    """One status answer as metric families."""

    def __init__(self, answer: StatusAnswer) -> None:
        self._answer = answer

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        yield from _daemon(self._answer)
        yield from _peers(self._answer.peers)
        yield from _children([(peer.name, child) for peer in self._answer.peers for child in peer.children])


def render(answer: StatusAnswer) -> bytes:
    """Return the exposition text of one status answer."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(answer))
    return generate_latest(registry)


def _daemon(answer: StatusAnswer) -> Iterable[Metric]:
    gateway, config = answer.gateway, answer.config
    info = InfoMetricFamily("ipsecd", "Version and engine")
    info.add_metric([], {"version": gateway.version, "engine": gateway.engine})
    yield info
    yield _gauge("uptime_seconds", "Since the daemon started", gateway.uptime_s)
    yield _gauge("config_generation", "Configurations applied since the start", config.generation)
    yield _gauge("config_reload_failed", "1 while an old configuration runs", config.running_old)
    yield _gauge("config_warnings", "Warnings about the running configuration", len(config.warnings))
    yield _gauge("ike_half_open", "IKE SAs begun by peers and not authenticated", gateway.half_open)
    yield _gauge("ike_cookies", "1 while new initiators must prove a cookie", gateway.cookies)
    yield _gauge("loop_lag_p99_seconds", "How late the event loop ran timers", gateway.loop_lag.p99_ms / 1000)
    yield _gauge("guard_installed", "1 while the nft table stands", gateway.guard.installed)
    yield _counts("guard_repairs", "Routes, rules or tables put back", [], {(): gateway.guard.repairs})
    yield _counts("guard_packets", "By counter of the nft table", ["counter"], _keyed(gateway.guard.counters))
    yield _counts("dropped_packets", "Packets and datagrams by reason", ["reason"], _keyed(gateway.drops))
    yield _counts("overflows", "Of kernel sockets and the TUN", ["queue"], _keyed(gateway.overflows))


def _peers(peers: list[PeerView]) -> Iterable[Metric]:
    yield _gauges("peer_up", "1 while an IKE SA with the peer stands", ["peer"],
                  {(p.name,): p.state in ("up", "rekeying") for p in peers})
    yield _gauges("peer_failed_attempts", "Since the peer was last up", ["peer"],
                  {(p.name,): p.attempts for p in peers})
    yield _gauges("peer_last_error", "1 for the cause of the last failure", ["peer", "cause"],
                  {(p.name, p.last_error.cause): 1 for p in peers if p.last_error})


def _children(children: list[tuple[str, ChildView]]) -> Iterable[Metric]:
    names = ["peer", "child"]
    both = [*names, "direction"]
    yield _gauges("child_up", "1 while the child carries traffic", names,
                  {(p, c.name): c.state in ("up", "rekeying") for p, c in children})
    yield _gauges("child_held_packets", "Packets that wait for the child", names,
                  {(p, c.name): c.held_packets for p, c in children})
    yield _gauges("child_path_mtu_bytes", "Largest inner packet", names,
                  {(p, c.name): c.path_mtu for p, c in children if c.path_mtu is not None})
    yield _counts("child_packets", "Inner packets", both,
                  {(p, c.name, "in"): c.traffic.packets_in for p, c in children}
                  | {(p, c.name, "out"): c.traffic.packets_out for p, c in children})
    yield _counts("child_bytes", "Bytes of inner packets", both,
                  {(p, c.name, "in"): c.traffic.bytes_in for p, c in children}
                  | {(p, c.name, "out"): c.traffic.bytes_out for p, c in children})
    yield _counts("child_dropped_packets", "By reason", [*names, "reason"],
                  {(p, c.name, reason): n for p, c in children for reason, n in c.drops.items()})


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ipsecd_{name}", text, value=value)


def _gauges(name: str, text: str, labels: list[str], values: Mapping[_Labels, int]) -> Metric:
    family = GaugeMetricFamily(f"ipsecd_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _counts(name: str, text: str, labels: list[str], values: Mapping[_Labels, int]) -> Metric:
    family = CounterMetricFamily(f"ipsecd_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _keyed(counts: dict[str, int]) -> dict[tuple[str, ...], int]:
    return {(name,): n for name, n in counts.items()}


class MetricsServer:
    """GET /metrics on a TCP address."""

    def __init__(self, status: Callable[[], Awaitable[StatusAnswer]], report: Callable[[Event], None]) -> None:
        self._status = status
        self._report = report
        self._listener: socket.socket | None = None
        self._cached = b""
        self._fresh_until = float("-inf")
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        self._site = BoundedSite(app, lambda _, connections: connections < MAX_SCRAPERS)

    def bind(self, host: str, port: int) -> int:
        """Listen; return the port, which the kernel chose where it is 0.  Raises LocalError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise LocalError(f"metrics.listen {host} port {port}: {error.strerror or error}") from error
        self._listener = listener
        return int(listener.getsockname()[1])

    async def serve(self) -> None:
        """Serve until cancelled."""
        assert self._listener is not None, "bind() comes first"
        await self._site.serve(self._listener)

    async def _metrics(self, _: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        if now >= self._fresh_until:
            try:
                self._cached = await asyncio.to_thread(render, await self._status())    # 80 ms with 500 peers
            except Exception as error:               # a scrape's fault must not end the daemon
                self._report(LocalFault("metrics", printable(f"{type(error).__name__}: {error}")))
                return web.Response(status=500)
            self._fresh_until = now + CACHE_S
        return web.Response(body=self._cached, headers={"Content-Type": CONTENT_TYPE_LATEST})

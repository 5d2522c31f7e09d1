"""From the core's views and the engine's counters to the answer of `ipsecctl status`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ipsecd.causes import Failure
from ipsecd.control.schema import (
    ChildView,
    Error,
    IkeView,
    PeerView,
    SaView,
    State,
    Traffic,
    Wait,
)
from ipsecd.drops import DropReason
from ipsecd.engine.contract import EngineStats
from ipsecd.ike.consts import ProtocolId
from ipsecd.policy import ChildPolicy, PeerPolicy, Start
from ipsecd.sa import ChildKey, Deadline, SaPair, SaStats
from ipsecd.views import Failed, PairView
from ipsecd.views import IkeView as CoreIke
from ipsecd.views import PeerView as CorePeer

LIVE = ("arriving", "up", "rekeying")          # states of a pair that carries traffic; others only wait for stragglers
NO_PAIRS: Mapping[DropReason, int] = {}


@dataclass(frozen=True, slots=True)
class Readings:
    """What the edge adds to the core's view; `past` sums the pairs that are gone."""

    now: float
    stats: EngineStats
    pairs: Mapping[int, SaPair]
    past: Mapping[ChildKey, SaStats]
    past_drops: Mapping[ChildKey, Mapping[DropReason, int]]
    inner_mtus: Mapping[ChildKey, int]
    outer_mtus: Mapping[str, int]        # peer -> bytes
    where: Callable[[Failure, str, str], str] = lambda _failure, _peer, _child: ""     # file, line and key to change


def installed_pairs(readings: Readings) -> dict[ChildKey, list[int]]:
    """Return the inbound SPIs of each child, pairs in grace too: sums must not fall when one is replaced."""
    installed: dict[ChildKey, list[int]] = {}
    for spi in readings.stats.pairs:
        if spi in readings.pairs:
            installed.setdefault(readings.pairs[spi].child, []).append(spi)
    return installed


def build_peers(views: Iterable[CorePeer], policies: Mapping[str, PeerPolicy], readings: Readings,
                installed: Mapping[ChildKey, list[int]]) -> list[PeerView]:
    """Return what is shown of these peers."""
    return [_peer(peer, policies[peer.entry or peer.name], readings, _own(peer, installed)) for peer in views
            if (peer.entry or peer.name) in policies]


def _own(peer: CorePeer, installed: Mapping[ChildKey, list[int]]) -> Mapping[ChildKey, list[int]]:
    """Return the pairs to count for a peer: an entry that serves many counts those of all its remotes."""
    if not peer.entry:
        return installed
    own = {pair.spi_in for ike in peer.ike for pair in ike.pairs}
    return {child: [spi for spi in spis if spi in own] for child, spis in installed.items()}


def _peer(view: CorePeer, policy: PeerPolicy, readings: Readings,
          installed: Mapping[ChildKey, list[int]]) -> PeerView:
    up = [ike for ike in view.ike if ike.state == "Established"]
    shown = up[-1] if up else (view.ike[-1] if view.ike else None)
    size, origin = _path_mtu(view, policy, readings.outer_mtus.get(policy.name), shown)
    return PeerView(
        name=view.name, enabled=view.enabled, state=_peer_state(view, policy, up),
        waiting_for=_wait(view.waits_for, readings.now), addresses=list(policy.addresses),
        remote_address=str(shown.path.remote) if shown else "", local_address=str(shown.path.local) if shown else "",
        nat=shown.nat if shown else "unknown",  # type: ignore[arg-type]  # the core's words are the schema's
        path_mtu=size, path_mtu_origin=origin, attempts=view.attempts,  # type: ignore[arg-type]  # likewise
        ike=[_ike(ike, readings.now) for ike in view.ike],
        children=[_child(child, view, readings, installed.get(child.key, [])) for child in policy.children],
        last_error=_error(view.last_failure, readings, view.entry or view.name), redirected_to=view.redirected)


def _path_mtu(view: CorePeer, policy: PeerPolicy, of_entry: int | None, ike: CoreIke | None) -> tuple[int | None, str]:
    """Return the size of the path to a peer and where it came from: of an entry for many, that of each remote."""
    if ike is not None and ike.path_mtu is not None and policy.ike.probe_path:
        return ike.path_mtu, ike.path_mtu_origin
    size = None if policy.serves_many and not view.entry else of_entry
    return size, "" if size is None else "fixed" if size == policy.ike.path_mtu else "route"


def _peer_state(view: CorePeer, policy: PeerPolicy, up: list[CoreIke]) -> State:
    if not view.enabled:
        return "asleep"
    if up:
        return "rekeying" if all("rekey" in ike.state.lower() for ike in up) else "up"
    if view.down and len(view.down) == len(policy.children):
        return "down"
    if view.phase in ("connecting", "resolving"):
        return "connecting"
    if view.phase == "waiting":
        return "waiting"
    return "idle" if policy.addresses else "listening"


def _child(policy: ChildPolicy, peer: CorePeer, readings: Readings, installed: list[int]) -> ChildView:
    pairs = [pair for ike in peer.ike for pair in ike.pairs if pair.child == policy.key and pair.state in LIVE]
    failed = peer.child_failures.get(policy.key.child)
    local, remote = [str(s) for s in policy.local], [str(s) for s in policy.remote]
    drops: dict[str, int] = {}
    sources = [readings.stats.pair_drops.get(spi, NO_PAIRS) for spi in installed]
    past, past_drops = readings.past.get(policy.key, SaStats()), readings.past_drops.get(policy.key, NO_PAIRS)
    if peer.entry:
        past, past_drops = SaStats(), NO_PAIRS         # of all remotes: the entry's own row has them
    for source in (*sources, past_drops):
        for reason, count in source.items():
            drops[reason] = drops.get(reason, 0) + count
    return ChildView(
        name=policy.key.child, state=_child_state(policy, peer, pairs, failed), start=policy.start, mode=policy.mode,
        waiting_for=_child_wait(policy, peer, pairs, readings.now), local=local, remote=remote,
        narrowed=bool(pairs) and policy.ts_style == "combined" and any(
            set(p.ts_local) != set(local) or set(p.ts_remote) != set(remote) for p in pairs),
        sas=[_sa(pair, readings) for pair in pairs], drops=drops,
        traffic=_traffic(sum((readings.stats.pairs[spi] for spi in installed), start=past), readings.now),
        held_packets=readings.stats.held_packets.get(policy.key, 0) if peer.enabled else 0,
        path_mtu=readings.inner_mtus.get(policy.key),
        last_error=_error(failed, readings, policy.key.peer, policy.key.child))


def _child_state(policy: ChildPolicy, peer: CorePeer, pairs: list[PairView], failed: Failed | None) -> State:
    if not peer.enabled:
        return "asleep"
    if pairs:
        return "rekeying" if all("rekey" in p.state.lower() for p in pairs) else "up"
    if policy.key.child in peer.down:
        return "down"
    if peer.phase in ("connecting", "resolving") and policy.start is not Start.LISTEN:
        return "connecting"
    if policy.start is Start.LISTEN:
        return "listening"
    if failed or peer.phase == "waiting":
        return "waiting"
    return "idle"


def _child_wait(policy: ChildPolicy, peer: CorePeer, pairs: list[PairView], now: float) -> Wait | None:
    if pairs or not peer.enabled:
        return None
    if policy.key.child in peer.down:
        return Wait(why="ipsecctl up")
    if policy.start is Start.LISTEN:
        return Wait(why="the peer")
    if policy.start is Start.ON_DEMAND and peer.phase == "idle":
        return Wait(why="traffic")
    return _wait(peer.waits_for, now)


def _ike(view: CoreIke, now: float) -> IkeView:
    return IkeView(
        ike=f"{view.spi_i}:{view.spi_r}", state=view.state, role="initiator" if view.initiator else "responder",
        suite=view.suite, local_identity=view.local_identity, remote_identity=view.remote_identity,
        path=str(view.path), nat=view.nat,  # type: ignore[arg-type]  # the core's words are the schema's
        fragmentation=view.fragmentation, age_s=now - view.since,
        rekey_in_s=None if view.rekey_at is None else view.rekey_at - now,
        waiting_for=_wait(view.waits_for, now))


def _sa(view: PairView, readings: Readings) -> SaView:
    pair, stats = readings.pairs.get(view.spi_in), readings.stats.pairs.get(view.spi_in, SaStats())
    return SaView(
        slot=view.slot, spi_in=f"{view.spi_in:08x}", spi_out=f"{view.spi_out:08x}", suite=view.suite, mode=view.mode,
        esn=pair.suite.esn if pair else False, replay_window=pair.replay_window if pair else 0,
        ts_local=list(view.ts_local), ts_remote=list(view.ts_remote), path=str(pair.path) if pair else "",
        encapsulation=_encapsulation(pair), tfc=str(pair.tfc) if pair else "",
        protocol="ah" if pair is not None and pair.suite.protocol == ProtocolId.AH else "esp",
        age_s=readings.now - view.established_at,
        rekey_in_s=None if view.state == "rekeying" else view.rekey_at - readings.now,
        expires_in_s=view.expires_at - readings.now, traffic=_traffic(stats, readings.now),
        drops={str(k): v for k, v in readings.stats.pair_drops.get(view.spi_in, NO_PAIRS).items()})


def _encapsulation(pair: SaPair | None) -> Literal["udp", "raw", "unknown"]:
    if pair is None:
        return "unknown"
    return "raw" if pair.path.raw else "udp"


def _traffic(stats: SaStats, now: float) -> Traffic:
    return Traffic(packets_in=stats.packets_in, bytes_in=stats.bytes_in, packets_out=stats.packets_out,
                   bytes_out=stats.bytes_out, last_in_age_s=None if stats.last_in is None else now - stats.last_in,
                   last_out_age_s=None if stats.last_out is None else now - stats.last_out)


def _wait(deadline: Deadline | None, now: float) -> Wait | None:
    return None if deadline is None else Wait(why=deadline.why, in_s=max(0.0, deadline.at - now))


def _error(failed: Failed | None, readings: Readings, peer: str, child: str = "C") -> Error | None:
    if failed is None:
        return None
    error = Error.of(failed.failure, max(0.0, readings.now - failed.at))
    hint = error.hint.replace("peers.P.", f"peers.{peer}.").replace("children.C.", f"children.{child}.")
    return error.model_copy(update={"hint": hint, "where": readings.where(failed.failure, peer, child)})

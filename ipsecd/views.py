"""Frozen pictures of what exists, for status, metrics and tests; times are the gateway's clock in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.causes import Failure
from ipsecd.sa import ChildKey, Deadline, Path


@dataclass(frozen=True, slots=True)
class PairView:
    """One Child SA pair."""

    child: ChildKey
    slot: int
    spi_in: int
    spi_out: int
    state: str
    suite: str
    ts_local: tuple[str, ...]
    ts_remote: tuple[str, ...]
    established_at: float
    rekey_at: float
    expires_at: float
    mode: str = "tunnel"


@dataclass(frozen=True, slots=True)
class IkeView:
    """One IKE SA, from the first message on; `waits_for` is its next deadline with the reason."""

    handle: int
    peer: str               # empty for a half-open SA whose peer is not known yet
    state: str
    initiator: bool
    spi_i: str
    spi_r: str
    suite: str
    local_identity: str
    remote_identity: str
    path: Path
    nat: str                # "none", "local", "remote", "both"
    fragmentation: bool     # RFC 7383, agreed by both
    since: float
    rekey_at: float | None
    waits_for: Deadline | None
    pairs: tuple[PairView, ...]
    path_mtu: int | None = None     # bytes of outer datagrams, None where nobody looked
    path_mtu_origin: str = ""       # "route", "probed" or "base"


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure and when it happened."""

    failure: Failure
    at: float


@dataclass(frozen=True, slots=True)
class PeerView:
    """One configured peer: what the supervisor does, and the IKE SAs it has."""

    name: str
    enabled: bool
    phase: str              # "idle", "resolving", "connecting", "waiting"
    waits_for: Deadline | None
    last_failure: Failed | None
    child_failures: dict[str, Failed]
    attempts: int           # that failed since the peer was last up
    down: tuple[str, ...]   # children that the operator took down
    ike: tuple[IkeView, ...]
    entry: str = ""         # where the peer is one remote of an entry that serves many
    redirected: str = ""    # the gateway that the peer sent us to (RFC 5685)


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Everything the pure core knows, less packet counters, which the engine has."""

    peers: tuple[PeerView, ...]
    half_open: int
    waits_for: Deadline | None

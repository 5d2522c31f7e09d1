"""Requests and answers of the control socket, version 1: what `ipsecctl --json` prints, docs/control-api.md lists.

Version 1 only grows: fields are added, never renamed, retyped or removed; a client ignores fields it does not know.
Ages and times to come are seconds.  All text is `Shown`: whatever a peer sent is escaped again here, so that no answer
can carry a control or bidi character.  No model has a field for key material.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ipsecd.causes import Failure
from ipsecd.text import printable

API_VERSION: Literal[1] = 1
MAX_REQUEST_BYTES = 64 * 1024
MAX_PLAN_TEXT = 4 * 1024 * 1024     # characters of a configuration: thousands of peers
MAX_PLAN_BYTES = 2 * MAX_PLAN_TEXT + MAX_REQUEST_BYTES  # JSON writes a line end as two characters
MAX_SHOWN = 4096                    # characters of one text; plan lines and proposal lists exceed the cap of peer text


def shown(text: str) -> str:
    """Return text safe for JSON, logs and terminals; safe text comes back unchanged."""
    return printable(text, MAX_SHOWN)


def _address(text: str) -> str:
    address = ip_address(text)
    if "%" in text:
        raise ValueError("a selector knows no scope")
    return str(address)


Shown = Annotated[str, AfterValidator(shown)]
Address = Annotated[str, AfterValidator(_address)]
State = Literal["up", "rekeying", "connecting", "waiting", "listening", "idle", "down", "asleep"]
Level = Literal["debug", "info", "warning", "error"]


class Answer(BaseModel):
    """Base of what the daemon sends; fields that a newer daemon added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(BaseModel):
    """Base of what a client sends; unknown fields and loose types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Versioned(Answer):
    """An answer of its own."""

    version: Annotated[Literal[1], Field(description="version of this schema")] = API_VERSION


class Wait(Answer):
    """What a negotiation waits for."""

    why: Shown = Field(description="reason of the next deadline, such as \"retransmit IKE_AUTH 3\"")
    in_s: float | None = Field(default=None, description="seconds until the daemon acts; null: it only listens")


class Error(Answer):
    """The last failure of a peer or child."""

    cause: Shown = Field(description="stable name of the cause")
    summary: Shown = Field(description="one sentence")
    ours: Shown = Field(default="", description="what we offered or said")
    theirs: Shown = Field(default="", description="what the peer offered or said")
    notify: Shown = Field(default="", description="the peer's notify by name")
    hint: Shown = Field(default="", description="what to change")
    where: Shown = Field(default="", description="file, line and key of the configuration to change")
    age_s: float | None = Field(default=None, description="seconds since it happened")

    @classmethod
    def of(cls, failure: Failure, age_s: float | None = None) -> Error:
        """Return the view of a Failure that happened `age_s` seconds ago."""
        return cls(cause=failure.cause.value, summary=failure.summary, ours=failure.ours, theirs=failure.theirs,
                   notify=failure.notify, hint=failure.hint, where=failure.where, age_s=age_s)


class Traffic(Answer):
    """Packets and bytes of inner packets each way; of a child: monotonic across rekeys and reconnects."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    last_in_age_s: float | None = Field(default=None, description="seconds since the last authenticated packet in")
    last_out_age_s: float | None = Field(default=None, description="seconds since the last packet out")


class SaView(Answer):
    """One pair of SAs, of ESP or AH."""

    slot: int = Field(default=0, description="tells apart the pairs of one child (ts_style: per-pair)")
    spi_in: Shown
    spi_out: Shown
    suite: Shown = Field(description="algorithms as negotiated")
    mode: Shown = Field(default="tunnel", description="tunnel or transport, as negotiated")
    esn: bool = Field(description="extended sequence numbers")
    replay_window: int = Field(description="packets; 0 is off")
    ts_local: list[Shown] = Field(description="local selectors as negotiated")
    ts_remote: list[Shown] = Field(description="remote selectors as negotiated")
    path: Shown = Field(description="outside addresses, and ports where there is UDP")
    encapsulation: Literal["udp", "raw", "unknown"] = Field(
        default="unknown", description="how we send: ESP in UDP, or as such; AH is never in UDP")
    tfc: str = Field(default="", description="traffic flow confidentiality of what we send, empty for none")
    protocol: Literal["esp", "ah"] = Field(default="esp", description="`ah` encrypts nothing")
    age_s: float
    rekey_in_s: float | None = Field(default=None, description="seconds to the next rekey; absent once replaced")
    expires_in_s: float | None = None
    traffic: Annotated[Traffic, Field(description="since this pair was installed")] = Traffic()
    drops: dict[str, int] = Field(default_factory=dict[str, int], description="by reason, of this pair")


class ChildView(Answer):
    """One configured child."""

    name: Shown
    state: State
    waiting_for: Wait | None = None
    start: Shown = Field(description="always, on-demand or listen")
    mode: Shown = "tunnel"
    local: list[Shown] = Field(description="selectors as configured")
    remote: list[Shown] = Field(description="selectors as configured")
    narrowed: bool = Field(default=False, description="the peer cut the selectors: compare local/remote with the SAs'")
    sas: list[SaView] = Field(default_factory=list[SaView])
    traffic: Traffic = Traffic()
    drops: dict[str, int] = Field(default_factory=dict[str, int], description="by reason, monotonic across rekeys")
    held_packets: int = Field(default=0, description="packets that wait for the child to come up")
    path_mtu: int | None = Field(default=None, description="largest inner packet, bytes")
    last_error: Error | None = None


class IkeView(Answer):
    """One IKE SA."""

    ike: Shown = Field(description="SPIs of initiator and responder")
    state: Shown
    role: Literal["initiator", "responder"]
    suite: Shown = ""
    local_identity: Shown = ""
    remote_identity: Shown = ""
    path: Shown
    nat: Literal["none", "local", "remote", "both", "unknown"] = "unknown"
    fragmentation: bool | None = Field(default=None, description="IKE fragmentation (RFC 7383) is agreed")
    age_s: float
    rekey_in_s: float | None = None
    expires_in_s: float | None = None
    waiting_for: Wait | None = None


class PeerView(Answer):
    """One configured peer."""

    name: Shown
    enabled: bool = True
    state: State
    waiting_for: Wait | None = None
    addresses: list[Shown] = Field(description="as configured; empty means any, listen only")
    remote_address: Shown = Field(default="", description="address and port in use")
    local_address: Shown = ""
    redirected_to: Shown = Field(default="", description="the gateway that the peer sent us to (RFC 5685)")
    nat: Literal["none", "local", "remote", "both", "unknown"] = "unknown"
    path_mtu: int | None = Field(default=None, description="largest outer datagram, bytes")
    path_mtu_origin: Literal["", "route", "fixed", "probed", "base"] = Field(
        default="", description="where path_mtu came from: the host's route, `ike.path_mtu`, the largest datagram that "
                                "passed, or nothing larger than the base is known to pass")
    attempts: int = Field(default=0, description="failed attempts since the peer was last up")
    ike: list[IkeView] = Field(default_factory=list[IkeView])
    children: list[ChildView] = Field(default_factory=list[ChildView])
    last_error: Error | None = None


class ConfigView(Answer):
    """Which configuration runs."""

    file: Shown
    generation: int = Field(description="1 at start, one more with each applied reload")
    age_s: float = Field(description="seconds since it was applied")
    running_old: bool = Field(default=False, description="the last reload failed; `problems` says why")
    problems: list[Shown] = Field(default_factory=list[str], description="errors of the last reload")
    warnings: list[Shown] = Field(default_factory=list[str])


class LoopLag(Answer):
    """How late the event loop ran timers, milliseconds, over the last minute."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class GuardView(Answer):
    """The nft table that holds without the daemon."""

    installed: bool
    repairs: int = Field(default=0, description="times that a route, rule or table removed by others was put back")
    counters: dict[str, int] = Field(default_factory=dict[str, int], description="packets by counter of the table")


class GatewayView(Answer):
    """The daemon."""

    version: Shown
    engine: Shown
    uptime_s: float
    interface: Shown
    half_open: int = Field(default=0, description="IKE SAs that peers have begun and not authenticated")
    cookies: bool = Field(default=False, description="new initiators must prove a cookie")
    loop_lag: LoopLag = LoopLag()
    drops: dict[str, int] = Field(default_factory=dict[str, int], description="by reason, all packets and datagrams")
    overflows: dict[str, int] = Field(default_factory=dict[str, int], description="of kernel sockets and the TUN")
    guard: GuardView


class StatusAnswer(Versioned):
    """GET /v1/status."""

    gateway: GatewayView
    config: ConfigView
    peers: list[PeerView]


class Target(Request):
    """POST /v1/up, /v1/down, /v1/rekey."""

    peer: str
    child: str | None = None
    wait: bool = Field(default=False, description="answer once it is up, down or rekeyed, or has failed")


class Outcome(Answer):
    """What became of one child, or of the peer's IKE SA where `child` is absent."""

    peer: Shown
    child: Shown | None = None
    result: Shown = Field(description="a word: started, up, already up, down, rekeyed, failed ...")
    failure: Error | None = None


class CommandAnswer(Versioned):
    """Answer to up, down and rekey."""

    ok: bool
    outcomes: list[Outcome]


class PlanRequest(Request):
    """POST /v1/plan; without text the daemon plans its own file."""

    text: str | None = Field(default=None, max_length=MAX_PLAN_TEXT, description="of a configuration file")
    filename: str = Field(default="", description="only named in messages; the daemon does not open it")


class PlanAnswer(Versioned):
    """What a reload would do, or why it would be refused."""

    ok: bool
    changes: list[Shown] = Field(default_factory=list[str], description="one line a change, in the order applied")
    problems: list[Shown] = Field(default_factory=list[str], description="every error, with file:line:column")
    warnings: list[Shown] = Field(default_factory=list[str])


class ReloadRequest(Request):
    """POST /v1/reload."""

    wait: bool = Field(default=False, description="answer once the change is applied, not only accepted")


class ReloadAnswer(PlanAnswer):
    """What a reload did; with `ok` false nothing changed."""

    generation: int


class PolicyQuery(Request):
    """POST /v1/policy: one packet, seen from this gateway."""

    source: Address
    destination: Address
    protocol: int = Field(default=0, ge=0, le=255, description="0 where only addresses are asked about")
    source_port: int | None = Field(default=None, ge=0, le=65535)
    destination_port: int | None = Field(default=None, ge=0, le=65535)
    # JSON knows no tuples: strict, no list would do.
    icmp: tuple[int, int] | None = Field(default=None, strict=False, description="type and code")
    inbound: bool = Field(default=False, description="the packet comes from the remote side")
    interface: str | None = Field(default=None, description="interface it is forwarded from")

    @model_validator(mode="after")
    def _one_family(self) -> PolicyQuery:
        if ip_address(self.source).version != ip_address(self.destination).version:
            raise ValueError("source and destination are of different address families")
        return self


class EntryVerdict(Answer):
    """One SPD entry and why it matched or did not."""

    number: int = Field(description="place in the SPD, from 1")
    name: Shown
    action: Shown
    matched: bool
    why: Shown


class PolicyAnswer(Versioned):
    """Which entry decides."""

    action: Literal["protect", "bypass", "discard"]
    entry: int | None = Field(description="number of the entry that decides; null: policies_default")
    name: Shown
    peer: Shown | None = None
    child: Shown | None = None
    spi: Shown | None = Field(default=None, description="outbound (inbound with `inbound`) SPI that would carry it now")
    note: Shown = Field(default="", description="what else decides about this packet: no SA yet, narrowed away")
    verdicts: list[EntryVerdict] = Field(description="entries in order up to the one that decides, 256 at most")
    skipped: int = Field(default=0, description="entries before it that did not match and are not listed")


class Check(Answer):
    """One finding of doctor."""

    name: Shown
    result: Literal["ok", "warning", "failed", "skipped"]
    detail: Shown = ""
    hint: Shown = ""


class DoctorAnswer(Versioned):
    """GET /v1/doctor."""

    checks: list[Check]


class EventLine(Versioned):
    """One line of GET /v1/events, with the event's own fields beside these.  Empty lines keep the stream alive."""

    model_config = ConfigDict(frozen=True, extra="allow")

    time: str = Field(description="UTC, RFC 3339")
    event: str = Field(description="name in snake case; `events_dropped` with `count` where the client was too slow")
    level: Level


class ErrorAnswer(Versioned):
    """Answer to a request that was not carried out."""

    error: Literal["bad_request", "forbidden", "not_found", "too_large", "busy", "timeout", "local_error"]
    detail: Shown

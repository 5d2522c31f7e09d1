"""Picking payloads out of a message whose shape the rules have checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ipsecd.errors import LocalError, PeerError
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto import kex
from ipsecd.ike.wire.payloads import IdPayload, KePayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import KE_NAMES

_P = TypeVar("_P")


def first(payloads: Iterable[object], kind: type[_P]) -> _P | None:
    """Return the first payload of a class."""
    return next((p for p in payloads if isinstance(p, kind)), None)


def need(payloads: Iterable[object], kind: type[_P]) -> _P:
    """Return the payload of a class that the rules of the exchange demand; its absence is our own fault."""
    found = first(payloads, kind)
    if found is None:
        raise LocalError(f"{kind.__name__} is missing in a message that passed the rules")
    return found


def expect(payloads: Iterable[object], kind: type[_P]) -> _P:
    """Return the payload of a class that a response to our request has; raise PeerError where it has none.

    The rules know the exchange of a response, not the request that it answers: CREATE_CHILD_SA has three kinds.
    """
    found = first(payloads, kind)
    if found is None:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"response without {kind.__name__}")
    return found


def identity(payloads: Iterable[object], type_: int) -> IdPayload | None:
    """Return IDi or IDr."""
    return next((p for p in payloads if isinstance(p, IdPayload) and p.payload_type == type_), None)


def selectors(payloads: Iterable[object], type_: int) -> tuple[TrafficSelector, ...]:
    """Return what TSi or TSr selects, empty where it is absent."""
    return next((p.selectors for p in payloads if isinstance(p, TsPayload) and p.payload_type == type_), ())


def check_public(ke: KePayload, method: int) -> None:
    """Raise PeerError unless a KE payload has an initiator's value of this method."""
    if ke.method != method:
        raise wrong_method(ke, method)
    if len(ke.data) != kex.public_bytes(method):
        raise PeerError(NotifyType.INVALID_SYNTAX, f"{KE_NAMES[method]} value of {len(ke.data)} bytes")


def wrong_method(ke: KePayload, method: int) -> PeerError:
    """Return the error of a KE payload of another method than the one that is due."""
    return PeerError(NotifyType.INVALID_SYNTAX, f"KE payload of method {ke.method} where {KE_NAMES[method]} is due")

"""`tfc` of a child -> Tfc: how much of its traffic's sizes and times we hide (RFC 4303 2.7)."""

from __future__ import annotations

from ipsecd.config import model
from ipsecd.config.fields import PAD_RANDOMLY
from ipsecd.config.nodes import Location
from ipsecd.config.problems import Problems
from ipsecd.policy import Mode
from ipsecd.sa import NO_TFC, Tfc


def compile_tfc(at: Location, own: model.ChildKeys, common: model.ChildDefaults, problems: Problems) -> Tfc:
    """Return what a child says of it, or `defaults` do; a child that cannot have it gets none of theirs."""
    keys, shared = own.tfc or model.TfcKeys(), common.tfc or model.TfcKeys()
    if own.ah is not None:
        if own.tfc is not None:
            problems.error(at, "found tfc in a child with ah; expected no such key, because AH hides nothing")
        return NO_TFC
    pad_to = _first(keys.pad_to, shared.pad_to)
    dummies = _first(keys.dummies_per_s, shared.dummies_per_s)
    if (own.mode or common.mode) != Mode.TRANSPORT:
        return Tfc(max(pad_to, 0), pad_to == PAD_RANDOMLY, dummies)
    if keys.pad_to is not None:
        problems.error((*at, "pad_to"), "found padding with mode: transport; expected no such key, because only a "
                                        "whole packet says where it ends (RFC 4303 2.7)")
    return Tfc(dummies_per_s=dummies)


def _first(own: int | None, shared: int | None) -> int:
    return own if own is not None else shared or 0

"""Post-quantum pre-shared keys (RFC 8784): a second secret in the keys that AUTH and everything after it depend on.

Both ends say USE_PPK in IKE_SA_INIT, which AUTH covers, so nobody between them can take it away.  The initiator names
its key and proves itself with it; where it may do without, it adds the proof without the key (NO_PPK_AUTH).  The
responder confirms the key by an empty PPK_IDENTITY.  Whoever requires the key refuses every answer without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ipsecd.causes import Cause
from ipsecd.events import Warned
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto.keymat import ppk_ike_keys
from ipsecd.ike.session import Session
from ipsecd.ike.tasks.auth_methods import unproven
from ipsecd.ike.tasks.ike_init import InitResult
from ipsecd.ike.tasks.pick import first
from ipsecd.ike.wire.notify import NotifyPayload, find, ppk_id
from ipsecd.ike.wire.payloads import AuthPayload
from ipsecd.policy import PeerPolicy, Ppk
from ipsecd.text import printable

PPK_ID_FIXED = 2                # RFC 8784 5.1: the octets that follow name the key


class Keyed(NamedTuple):
    """What IKE_AUTH goes on with: the keys, the peer's AUTH that fits them, and whether the extra key is in them."""

    init: InitResult
    auth: AuthPayload | None
    used: bool


def with_ppk(init: InitResult, ppk: Ppk) -> InitResult:
    """Return what IKE_SA_INIT agreed with the extra key mixed in."""
    keys = ppk_ike_keys(init.crypto.suite.prf, init.crypto.keys, ppk.key)
    return replace(init, crypto=replace(init.crypto, keys=keys))


def usable(peer: PeerPolicy, init: InitResult) -> Ppk | None:
    """As initiator: return the key to name, None without one; raise SaRefused where it is required in vain."""
    if init.resumed is not None:
        return None                     # it is in the SK_d that the ticket stands for
    if peer.ppk is not None and peer.ppk.required and not init.ppk:
        raise unproven(Cause.PPK_MISMATCH, "peer does not say that it uses one (USE_PPK)", ours=printable(peer.ppk.id),
                       theirs="no USE_PPK")
    return peer.ppk if init.ppk else None


def key_name(ppk: Ppk) -> NotifyPayload:
    """Return PPK_IDENTITY as the initiator sends it."""
    return NotifyPayload(NotifyType.PPK_IDENTITY, bytes([PPK_ID_FIXED]) + ppk.id)


def confirmed(ppk: Ppk | None, init: InitResult, payloads: Sequence[object]) -> Keyed:
    """As initiator: return what the responder went on with; raise SaRefused where that is not what we asked for."""
    auth = first(payloads, AuthPayload)
    if find(payloads, NotifyType.PPK_IDENTITY) is not None:
        if ppk is None:
            raise unproven(Cause.PPK_MISMATCH, "peer uses a key that we did not name", ours="none",
                           theirs="PPK_IDENTITY")
        return Keyed(with_ppk(init, ppk), auth, used=True)
    if ppk is not None and ppk.required:
        raise unproven(Cause.PPK_MISMATCH, "peer does not confirm our key", ours=printable(ppk.id),
                       theirs="no PPK_IDENTITY")
    return Keyed(init, auth, used=False)


def chosen(peer: PeerPolicy, init: InitResult, payloads: Sequence[object]) -> Keyed:
    """As responder: return which of the initiator's proofs to check with which keys; raise SaRefused for neither."""
    auth, named, ppk = first(payloads, AuthPayload), find(payloads, NotifyType.PPK_IDENTITY), peer.ppk
    if init.resumed is not None:
        return Keyed(init, auth, used=False)
    if init.ppk and ppk is not None and named is not None and named.data == key_name(ppk).data:
        return Keyed(with_ppk(init, ppk), auth, used=True)
    if ppk is not None and ppk.required:
        raise unproven(Cause.PPK_MISMATCH, "peer names none" if named is None else "peer names another",
                       ours=printable(ppk.id), theirs=printable(ppk_id(named)) if named else "none")
    if named is None or auth is None:
        return Keyed(init, auth, used=False)
    spare = find(payloads, NotifyType.NO_PPK_AUTH)
    if spare is None:
        raise unproven(Cause.PPK_MISMATCH, "peer requires one that this entry does not have",
                       ours=printable(ppk.id) if ppk else "none", theirs=printable(ppk_id(named)))
    return Keyed(init, AuthPayload(auth.method, spare.data), used=False)


def warn_unused(session: Session, keyed: Keyed) -> None:
    """Tell the operator that an entry with such a key got an IKE SA without: recorded traffic is not safe for ever."""
    if session.peer.ppk is not None and not keyed.used and keyed.init.resumed is None:
        session.emit(Warned("ppk_not_used", f"{session.peer.name}: the IKE SA is up without the post-quantum key"))

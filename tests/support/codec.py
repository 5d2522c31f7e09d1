"""All that the codec does for a received datagram, whatever is in it."""

from __future__ import annotations

from contextlib import suppress

from ipsecd.errors import PeerError, WireError
from ipsecd.ike.wire import rules
from ipsecd.ike.wire.glance import glance
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.ike.wire.message import ClearMessage, names, split
from ipsecd.ike.wire.notify import cookie


def take_datagram(data: bytes) -> None:
    """Do it; nothing but the declared errors may come of it, and those end here."""
    with suppress(WireError):
        glance(data, IkeHeader.parse(data))
    try:
        found = split(data)
        chain = found.payloads if isinstance(found, ClearMessage) else found.clear_payloads
        names(chain)
        cookie(chain)
        rules.check(found.header.exchange, found.header.is_response, chain)
    except (WireError, PeerError):
        return

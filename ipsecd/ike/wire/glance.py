"""A glance at a request for a new IKE SA: as much of it as its cookie needs (RFC 7296 2.6).

In a flood each request costs a small part of its parsing; what leads on is parsed whole afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

from ipsecd.errors import WireError
from ipsecd.ike.consts import PayloadType
from ipsecd.ike.wire.cursor import Reader
from ipsecd.ike.wire.header import HEADER_BYTES, IkeHeader
from ipsecd.ike.wire.message import GENERIC_HEADER, GENERIC_HEADER_BYTES, MAX_PAYLOADS
from ipsecd.ike.wire.notify import NotifyPayload, cookie
from ipsecd.ike.wire.payloads import NoncePayload


class Glance(NamedTuple):
    """What a cookie is made for, and the one that was brought, None where there is none."""

    ni: bytes
    cookie: bytes | None


def glance(datagram: bytes, header: IkeHeader) -> Glance:
    """Return the nonce, and the cookie in front; raise WireError where there is no way to the nonce."""
    reader, type_, brought = Reader(datagram), header.next_payload, None
    reader.skip(HEADER_BYTES)
    for number in range(MAX_PAYLOADS):
        next_type, _, length = reader.unpack(GENERIC_HEADER)
        body = reader.block(length, counted=GENERIC_HEADER_BYTES)
        if type_ == PayloadType.NONCE:
            return Glance(NoncePayload.parse(body.rest()).data, brought)
        if type_ == PayloadType.NOTIFY and number == 0:        # who brings a COOKIE puts it first
            brought = cookie((NotifyPayload.parse(body.rest()),))
        type_ = next_type
    raise WireError("no nonce in sight")

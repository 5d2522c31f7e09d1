"""REDIRECT and REDIRECTED_FROM (RFC 5685 7.2, 7.3): a gateway by its address or name."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from ipsecd.errors import WireError
from ipsecd.ike.consts import GatewayIdType, NotifyType
from ipsecd.ike.wire.cursor import Reader, u8
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.text import dns_name, printable

_ADDRESS_BYTES = {GatewayIdType.IPV4: 4, GatewayIdType.IPV6: 16}


class Gateway(NamedTuple):
    """Where a peer sends us: an IP address in its canonical form or a DNS name, and the nonce behind it."""

    name: str
    nonce: bytes


def redirect_target(notify: NotifyPayload) -> Gateway:
    """Read REDIRECT: type(1) length(1) identity(n) nonce(m); raise WireError for what is neither address nor name."""
    reader = Reader(notify.data)
    kind, size = reader.u8(), reader.u8()
    identity, nonce = reader.take(size), reader.rest()
    wanted = next((n for k, n in _ADDRESS_BYTES.items() if k == kind), None)
    if wanted is not None:
        if size != wanted:
            raise WireError(f"REDIRECT to an address of {size} bytes")
        return Gateway(str(ip_address(identity)), nonce)
    name = identity.decode("ascii", "replace")
    if kind != GatewayIdType.FQDN or not dns_name(name):
        raise WireError(f"REDIRECT to a gateway of type {kind}: {printable(identity)}")
    return Gateway(name.lower().removesuffix("."), nonce)


def redirected_from(address: str) -> NotifyPayload:
    """Return the notify that names the gateway which sent us on."""
    packed = ip_address(address).packed
    kind = GatewayIdType.IPV4 if len(packed) == _ADDRESS_BYTES[GatewayIdType.IPV4] else GatewayIdType.IPV6
    return NotifyPayload(NotifyType.REDIRECTED_FROM, u8(kind, "type") + u8(len(packed), "length") + packed)

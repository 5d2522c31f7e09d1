"""The notifies of MOBIKE that carry addresses (RFC 4555 4.2.2, 4.2.3, 4.2.5, 4.2.6)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.sa import Path

# Specification constants
MIN_COOKIE2_BYTES, MAX_COOKIE2_BYTES = 8, 64       # RFC 4555 4.2.5
# Tuning
MAX_ADDITIONAL = 8              # addresses of one end that are told and remembered; the common implementations' bound

_TYPES = {4: NotifyType.ADDITIONAL_IP4_ADDRESS, 6: NotifyType.ADDITIONAL_IP6_ADDRESS}
_BYTES = {int(NotifyType.ADDITIONAL_IP4_ADDRESS): 4, int(NotifyType.ADDITIONAL_IP6_ADDRESS): 16}


def address_list(others: Iterable[str]) -> tuple[NotifyPayload, ...]:
    """Return the notifies that tell all addresses beside the one in the IP header."""
    parsed = [ip_address(text) for text in others][:MAX_ADDITIONAL]
    told = tuple(NotifyPayload(_TYPES[a.version], a.packed) for a in parsed)
    return told or (NotifyPayload(NotifyType.NO_ADDITIONAL_ADDRESSES),)


def additional_addresses(payloads: Iterable[object]) -> tuple[str, ...] | None:
    """Return the addresses told beside the one in the IP header, None where the message tells nothing of them.

    What is not an address, and what is beyond MAX_ADDITIONAL, is ignored, as an unknown status notify would be.
    """
    notifies = [p for p in payloads if isinstance(p, NotifyPayload)]
    told = [p for p in notifies if p.type in _BYTES]
    if not told and find(notifies, NotifyType.NO_ADDITIONAL_ADDRESSES) is None:
        return None
    found = [str(ip_address(p.data)) for p in told if len(p.data) == _BYTES[p.type]]
    return tuple(dict.fromkeys(found))[:MAX_ADDITIONAL]


def cookie2(payloads: Iterable[object]) -> NotifyPayload | None:
    """Return the COOKIE2 to be copied into the response, None where it is absent or not of 8 to 64 bytes."""
    found = find(payloads, NotifyType.COOKIE2)
    return found if found and MIN_COOKIE2_BYTES <= len(found.data) <= MAX_COOKIE2_BYTES else None


def no_nats_allowed(path: Path) -> NotifyPayload:
    """Return the notify by which the sender of a message over `path` tells its addresses and ports."""
    local, remote = path
    data = b"".join((ip_address(local.address).packed, ip_address(remote.address).packed,
                     local.port.to_bytes(2, "big"), remote.port.to_bytes(2, "big")))
    return NotifyPayload(NotifyType.NO_NATS_ALLOWED, data)


def nat_forbidden(payloads: Iterable[object], arrival: Path) -> bool:
    """Return whether the sender forbids NATs and other addresses were sent than arrived (RFC 4555 3.9)."""
    found = find(payloads, NotifyType.NO_NATS_ALLOWED)
    return found is not None and found.data != no_nats_allowed(Path(arrival.remote, arrival.local)).data

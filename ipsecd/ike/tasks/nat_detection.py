"""NAT detection (RFC 7296 2.23), and why ours finds a NAT unless policy asks for ESP without UDP.

Everything runs in UDP/4500 after IKE_SA_INIT.  A peer encapsulates ESP in UDP only where it found a NAT, so our
NAT_DETECTION_SOURCE_IP is made with port 0, which no datagram has.  A peer of our own kind knows that hash and so still
sees whether a NAT is really there; any other takes it for a NAT on our side.  Toward a peer with `encapsulation: raw`,
or with a child that AH protects, ours is honest.  A peer that sends none of these notifies does no NAT traversal: it
gets none, and stays at port 500.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.nat_hash import nat_detection_hash
from ipsecd.ike.nat import IKE_PORT, NAT_PORT, Nat
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.sa import Endpoint, Path

FORCED_PORT = 0                 # in our source hash: matches nothing


def nat_payloads(*, spi_i: bytes, spi_r: bytes, path: Path, true: bool) -> tuple[NotifyPayload, NotifyPayload]:
    """Return both notifies for a message with these SPIs in its header, sent over `path`.

    Unless `true` a peer of another kind finds a NAT on our side.
    """
    source = nat_detection_hash(spi_i, spi_r, path.local.address, path.local.port if true else FORCED_PORT)
    destination = nat_detection_hash(spi_i, spi_r, path.remote.address, path.remote.port)
    return (NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, source),
            NotifyPayload(NotifyType.NAT_DETECTION_DESTINATION_IP, destination))


def detect(payloads: Iterable[object], *, spi_i: bytes, spi_r: bytes, path: Path, true: bool) -> Nat:
    """Return who is behind a NAT, and whether the peer does NAT traversal; `true` is what we told it.

    A peer may list several of its addresses as source; one that matches will do (RFC 7296 2.23).
    """
    sources, destinations = _hashes(payloads)
    if not sources or not destinations:
        return Nat(supported=False)
    def seen(endpoint: Endpoint, port: int) -> bytes:
        return nat_detection_hash(spi_i, spi_r, endpoint.address, port)
    remote = (seen(path.remote, path.remote.port), seen(path.remote, FORCED_PORT))
    return Nat(local=not any(same_bytes(d, seen(path.local, path.local.port)) for d in destinations),
               remote=not any(same_bytes(s, own) for s in sources for own in remote), honest=true)


def floated(path: Path) -> Path:
    """Return the path after IKE_SA_INIT: port 500 becomes 4500 at both ends, other ports stay."""
    return Path(_float(path.local), _float(path.remote))


def _float(endpoint: Endpoint) -> Endpoint:
    return Endpoint(endpoint.address, NAT_PORT) if endpoint.port == IKE_PORT else endpoint


def _hashes(payloads: Iterable[object]) -> tuple[list[bytes], list[bytes]]:
    sources: list[bytes] = []
    destinations: list[bytes] = []
    for payload in payloads:
        if isinstance(payload, NotifyPayload) and payload.type == NotifyType.NAT_DETECTION_SOURCE_IP:
            sources.append(payload.data)
        elif isinstance(payload, NotifyPayload) and payload.type == NotifyType.NAT_DETECTION_DESTINATION_IP:
            destinations.append(payload.data)
    return sources, destinations

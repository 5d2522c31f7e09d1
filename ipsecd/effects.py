"""What the pure core asks the edge to do.  The caller of any core entry drains these, in order, and does them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ipsecd.events import Event
from ipsecd.sa import ChildKey, Path, SaPair


@dataclass(frozen=True, slots=True)
class SendIke:
    """Send an IKE datagram from the socket bound to `path.local`; port 4500 gets the non-ESP marker at the edge."""

    path: Path
    datagram: bytes


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Send the one-byte NAT keepalive (RFC 3948 2.3)."""

    path: Path


@dataclass(frozen=True, slots=True)
class InstallSa:
    """Install both directions; inbound is accepted at once, outbound is used after UseOutbound only."""

    pair: SaPair


@dataclass(frozen=True, slots=True)
class UseOutbound:
    """Send the traffic of the child's slot on this pair from here on, and release held packets."""

    child: ChildKey
    spi_in: int


@dataclass(frozen=True, slots=True)
class UpdatePath:
    """Move a pair to another path (NAT rebinding, address change)."""

    spi_in: int
    path: Path


@dataclass(frozen=True, slots=True)
class RemoveSa:
    """Remove both directions of the pair with this inbound SPI; it receives for `linger_s` more, then nothing.

    Nothing is sent on a pair that lingers: another one serves its slot.
    """

    spi_in: int
    linger_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AbandonHeld:
    """Drop the packets held for a child that will not come up (counted)."""

    child: ChildKey


@dataclass(frozen=True, slots=True)
class Work:
    """Run `job` off the loop and hand its value, or the exception it raised, to work_done(id, ...)."""

    id: int
    job: Callable[[], object]


@dataclass(frozen=True, slots=True)
class RevocationQuery:
    """Where evidence about a certificate may be had: a CRL by GET where `body` is empty, else OCSP by POST.

    `usable` says whether bytes are such evidence, and current: only those are worth keeping.  It takes milliseconds.
    OCSP is asked with a nonce: `asking(nonce)` is the body to send in place of `body`, which names the query, and
    `echoes(answer, nonce)` whether an answer may be one to it (RFC 9654).
    """

    url: str
    body: bytes
    usable: Callable[[bytes], bool] = field(compare=False)
    asking: Callable[[bytes], bytes] | None = field(default=None, compare=False)
    echoes: Callable[[bytes, bytes], bool] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FetchRevocation:
    """Fetch evidence for each query and hand the tuple of what came, None where nothing did, to work_done(id, ...).

    An answer is due within a few seconds, also where nothing answers: an IKE_AUTH exchange waits for it.  With
    `at_hand` it is due at once, with what was fetched before; what was not is fetched for the next time.
    """

    id: int
    queries: tuple[RevocationQuery, ...]
    at_hand: bool = False


@dataclass(frozen=True, slots=True)
class SetPathMtu:
    """Send no larger IP datagrams over a path than this, from ESP on; 0 bytes: what the route takes."""

    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Resolve a peer's names (addresses pass through) and hand the paths to resolved(peer, paths, now, handle).

    `handle` is set where an IKE SA looks for another path, to which these names and no others belong.
    """

    peer: str
    names: tuple[str, ...]
    handle: int | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """Publish an event."""

    event: Event


Effect = (SendIke | SendKeepalive | InstallSa | UseOutbound | UpdatePath | RemoveSa | AbandonHeld | Work
          | FetchRevocation | SetPathMtu | Resolve | Emit)

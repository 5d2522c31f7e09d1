"""What the sessions of IKE SAs ask of the endpoint that has them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ipsecd.causes import Failure
from ipsecd.ike.collisions import Nonces
from ipsecd.policy import ChildPolicy, Identity, PeerPolicy
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey
from ipsecd.selectors import TrafficSelector

if TYPE_CHECKING:
    from ipsecd.ike.session import IkeCrypto, Session
    from ipsecd.ike.sizing import PathSizes
    from ipsecd.ike.tickets import Tickets


class Host(Protocol):
    """What the endpoint does for its IKE SAs."""

    @property
    def rng(self) -> Rng:
        """The source of chance."""
        ...

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The addresses of this host that IKE may use, in a lasting order."""
        ...

    def addresses_of(self, peer: PeerPolicy) -> tuple[str, ...]:
        """Return the addresses of a peer that its entry says, names resolved."""
        ...

    def crash_token(self, spi_i: bytes, spi_r: bytes) -> bytes | None:
        """Return our crash token for an IKE SA, None without a secret that outlives a restart (RFC 6290)."""
        ...

    @property
    def tickets(self) -> Tickets:
        """The tickets by which lost IKE SAs are taken up again (RFC 5723)."""
        ...

    @property
    def sizes(self) -> PathSizes:
        """The sizes of paths that were found before."""
        ...

    def device_for(self, interface: str | None) -> str:
        """Return the TUN device of new pairs of a child with this ingress interface."""
        ...

    def new_esp_spi(self) -> int:
        """Draw an inbound SPI that no pair of this gateway has."""
        ...

    def new_ike_spi(self) -> bytes:
        """Draw an IKE SPI of ours that no IKE SA of this gateway has."""
        ...

    def offer_ike_spi(self, old: Session) -> bytes:
        """Draw the SPI of a successor that we ask for; what the peer says on it is kept until it stands."""
        ...

    def last_inbound(self, spi_in: int) -> float | None:
        """Return when the engine last took an authenticated packet on a pair."""
        ...

    def may_probe(self, policy: ChildPolicy) -> bool:
        """Return True once for each configuration of a child that is in force."""
        ...

    def same_slot(self, peer: str, key: ChildKey, slot: int, *, but: int) -> Iterator[int]:
        """Return the inbound SPIs of other pairs that could carry a slot's traffic, oldest first, new arrivals last."""
        ...

    def wall_now(self) -> float:
        """Return the time of day in Unix seconds, for the validity of certificates."""
        ...

    def identify(self, remote: Identity, local: Identity | None, session: Session) -> PeerPolicy | None:
        """Return the peer entry for the identities of an IKE_AUTH request (RFC 4301 4.4.3)."""
        ...

    def alone_with(self, session: Session) -> bool:
        """Return whether no other IKE SA and no open exchange with this peer exists (RFC 7296 2.4)."""
        ...

    def kept_out(self, session: Session, remote: Identity, *, alone: bool) -> Failure | None:
        """Return why a proved peer gets no IKE SA all the same; `alone` where it says that it has no other."""
        ...

    def first_slot(self, session: Session) -> int:
        """Return the first of the slots that belong to this peer: remotes of one entry share its children."""
        ...

    def claimant(self, session: Session, ts_local: tuple[TrafficSelector, ...],
                 ts_remote: tuple[TrafficSelector, ...]) -> str:
        """Return another remote of the same entry that has some of this traffic, empty where it is free."""
        ...

    def crowded(self, session: Session) -> bool:
        """Return whether too many replaced IKE SAs of this line wait for their Delete to make another."""
        ...

    def successor(self, old: Session, crypto: IkeCrypto, nonces: Nonces, now: float) -> Session:
        """Make the IKE SA that a rekey of `old` agreed: established, without children."""
        ...

    def heir(self, session: Session) -> Session:
        """Return the IKE SA that speaks for the handle of this one, which rekeys may have replaced."""
        ...

    def release(self, session: Session, failure: Failure) -> None:
        """Close another IKE SA of the same peer, with a Delete."""
        ...

    def adopt(self, session: Session) -> None:
        """Take note that this IKE SA speaks for its handle and holds its children."""
        ...

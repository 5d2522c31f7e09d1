"""Tickets by value (RFC 5723 6, A.1): the state of an IKE SA, sealed with a key that only this process ever has.

    key ID(8) | IV(8) | ciphertext | ICV     (key ID | IV names the ticket, and is authenticated with it)

A key makes tickets for one ticket's life and opens them for another; then it is gone, and what it sealed with it.
Which tickets were spent is remembered for as long as their key.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ipsecd.aead import Sealer, make_sealer
from ipsecd.errors import BadIcv, LocalError, PeerError, WireError
from ipsecd.ike.consts import EncrId, NotifyType, TransformType
from ipsecd.ike.wire.cursor import Reader, u8, u16, uint
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.policy import Identity
from ipsecd.rng import Rng
from ipsecd.secret import Secret
from ipsecd.suites import Transform, encr_of

# Tuning
TICKET_LIFE_S = 4 * 3600.0      # how long a key of an IKE SA that is no more opens another: the life of an IKE SA
MAX_TICKETS = 100_000           # of one key, so that the memory of spent ones is bounded; then the next key begins
MAX_TICKET_BYTES = 1024         # it travels in one datagram (RFC 7383 has no fragments of this exchange); ours have 300

_KEY_ID_BYTES, _IV_BYTES, _KEY_BYTES = 8, 8, 36     # AES-256 and its salt


@dataclass(frozen=True, slots=True)
class Claims:
    """What a ticket stands for, seen from the end that holds it; `suite` is the proposal that was chosen."""

    entry: str                  # of our policy
    generation: int             # of that entry: a reload that changes it voids the ticket
    remote: Identity
    local: Identity
    suite: SaPayload
    sk_d: Secret
    proved_at: float            # when both ends last proved who they are by something else than a ticket
    expires_at: float
    id: bytes = b""             # as responder; of a ticket that was opened

    def build(self) -> bytes:
        """Return the plaintext of a ticket."""
        entry, suite = self.entry.encode(), self.suite.build()
        return b"".join((
            uint(int(self.proved_at * 1000), 8, "proof"), uint(int(self.expires_at * 1000), 8, "end of a ticket"),
            uint(self.generation, 8, "generation"),
            u16(len(entry), "name"), entry, _identity(self.remote), _identity(self.local),
            u16(len(suite), "suite"), suite, self.sk_d.reveal()))

    @classmethod
    def parse(cls, id_: bytes, plaintext: bytes) -> Claims:
        """Read what `build` wrote."""
        reader = Reader(plaintext)
        proved_at, expires_at, generation = reader.uint(8) / 1000, reader.uint(8) / 1000, reader.uint(8)
        entry = reader.take(reader.u16()).decode()
        remote, local = _read_identity(reader), _read_identity(reader)
        suite = SaPayload.parse(reader.take(reader.u16()))
        return cls(entry, generation, remote, local, suite, Secret(reader.rest()), proved_at, expires_at, id_)


@dataclass(slots=True)
class _Key:
    id: bytes
    sealer: Sealer
    since: float
    made: int = 0
    spent: set[bytes] = field(default_factory=set[bytes])


class TicketBox:
    """Makes, opens and spends tickets."""

    def __init__(self, rng: Rng, *, tickets_per_key: int = MAX_TICKETS) -> None:
        self._rng = rng
        self._tickets_per_key = tickets_per_key
        self._keys: deque[_Key] = deque(maxlen=2)

    def seal(self, claims: Claims, now: float) -> bytes:
        """Return a new ticket."""
        key = self._keys[-1] if self._keys else None
        if key is None or now - key.since >= TICKET_LIFE_S or key.made >= self._tickets_per_key:
            key = self._new_key(now)
        key.made += 1
        iv = uint(key.made, _IV_BYTES, "tickets of one key")
        return key.id + iv + key.sealer.seal(iv, claims.build(), key.id + iv)

    def open(self, ticket: bytes, now: float) -> Claims:
        """Return what a ticket of ours stands for; raise PeerError(TICKET_NACK) where it is none, spent or old."""
        if len(ticket) > MAX_TICKET_BYTES:
            raise nack(f"ticket of {len(ticket)} bytes")
        try:
            reader = Reader(ticket)
            key_id, iv = reader.take(_KEY_ID_BYTES), reader.take(_IV_BYTES)
            key = self._key(key_id)
            if key is None:
                raise nack("sealed with a key that we no longer have")
            claims = Claims.parse(key_id + iv, key.sealer.open(iv, reader.rest(), key_id + iv))
        except (WireError, BadIcv) as error:
            raise nack(str(error)) from None
        if claims.id in key.spent:
            raise nack("it was used before")
        if now >= claims.expires_at:
            raise nack("it is too old")
        return claims

    def spend(self, id_: bytes) -> bool:
        """Make a ticket void; return whether it was good until now."""
        key = self._key(id_[:_KEY_ID_BYTES])
        if key is None or id_ in key.spent:
            return False
        key.spent.add(id_)
        return True

    def _key(self, key_id: bytes) -> _Key | None:
        return next((key for key in self._keys if key.id == key_id), None)

    def _new_key(self, now: float) -> _Key:
        encr = encr_of(Transform(TransformType.ENCR, EncrId.AES_GCM_16, 256))
        if encr is None:
            raise LocalError("AES-256-GCM is no cipher of ours")
        secret = Secret(self._rng.random_bytes(_KEY_BYTES))
        sealer = make_sealer(encr, None, encr_key=secret, integ_key=Secret(b""))
        self._keys.append(_Key(self._rng.random_bytes(_KEY_ID_BYTES), sealer, now))
        return self._keys[-1]


def nack(why: str) -> PeerError:
    """Return the refusal of a ticket; the peer goes on with IKE_SA_INIT."""
    return PeerError(NotifyType.TICKET_NACK, f"ticket refused: {why}")


def _identity(identity: Identity) -> bytes:
    return u8(identity.type, "identity type") + u16(len(identity.data), "identity") + identity.data


def _read_identity(reader: Reader) -> Identity:
    return Identity(reader.u8(), reader.take(reader.u16()))

"""The protected channel of one IKE SA: seals and sends what goes out, opens what comes in, joins fragments.

Nothing here changes but IV counters and fragments, and fragments only on authentic bytes.
"""

from __future__ import annotations

from ipsecd.drops import DropReason
from ipsecd.effects import SendIke, SendKeepalive
from ipsecd.errors import BadIcv, WireError
from ipsecd.events import IkeMessage
from ipsecd.ike.consts import ExchangeType, enum_name
from ipsecd.ike.crypto.sk_payload import MessageFields, OpenedMessage, SkPair, open_fragment, open_message, sk_pair
from ipsecd.ike.fragments import Reassembly
from ipsecd.ike.session import KEEPALIVE_S, Session, Timer, TimerKind
from ipsecd.ike.states import InitAnswered
from ipsecd.ike.window import OtherForm
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.message import GENERIC_HEADER_BYTES, Payload, SealedMessage, names
from ipsecd.ike.wire.notify import MAX_NOTIFY_BYTES, NotifyPayload
from ipsecd.rate import Bucket
from ipsecd.sa import Path

_NOTIFY_BYTES = GENERIC_HEADER_BYTES + 4        # RFC 7296 3.10, without an SPI
# Tuning
REPEATS_PER_S, REPEAT_BURST = 10.0, 20.0        # stored answers given again: whoever saw a request can replay it


class Channel:
    """Both directions of one IKE SA; requests and responses are reassembled apart."""

    __slots__ = ("_keys", "_pair", "_repeats", "_requests", "_responses", "_session", "fragmentation", "sent_at")

    def __init__(self, session: Session, *, fragmentation: bool) -> None:
        self._session = session
        self._keys = session.crypto.keys
        self._pair = self._make_pair()
        self._repeats = Bucket(per_s=REPEATS_PER_S, burst=REPEAT_BURST, now=session.since)
        self._requests = Reassembly()
        self._responses = Reassembly()
        self.fragmentation = fragmentation      # both ends announced it (RFC 7383 2.3)
        self.sent_at = session.since

    def say(self, payloads: tuple[Payload, ...], *, exchange: int, message_id: int, response: bool, path: Path,
            now: float, at_most: int | None = None) -> tuple[bytes, ...]:
        """Seal, trace and send a message, `at_most` as in `seal`; return its datagrams, for repetitions.

        Keys that a task changed (RFC 9370 2.2.2) protect the next exchange: our response still goes under the old ones.
        """
        if not response:
            self._renew()
        datagrams = self.seal(payloads, exchange=exchange, message_id=message_id, response=response, path=path,
                              at_most=at_most)
        if response:
            self._renew()
        self.trace("out", payloads, exchange=exchange, message_id=message_id, response=response, path=path)
        self.send(datagrams, path, now)
        return datagrams

    def send(self, datagrams: tuple[bytes, ...], path: Path, now: float) -> None:
        """Send datagrams as they are."""
        if path == self._session.path:
            self.sent_at = now                  # only what goes there keeps a NAT's mapping (RFC 3948 4)
        for datagram in datagrams:
            self._session.output(SendIke(path, datagram))

    def keepalive(self, now: float) -> float:
        """Send a keepalive where nothing else went out for long (RFC 3948 4); return when to look again."""
        if self.sent_at + KEEPALIVE_S <= now:
            self.sent_at = now
            self._session.output(SendKeepalive(self._session.path))
        return self.sent_at + KEEPALIVE_S

    def repeat(self, datagrams: tuple[bytes, ...], path: Path, now: float) -> DropReason | None:
        """Send a stored answer again, to where the request came from (RFC 7296 2.11)."""
        if not self._repeats.take(now):
            return DropReason.IKE_RATE_LIMIT
        self.send(datagrams, path, now)
        return None

    def repeat_by_icv(self, message: SealedMessage, answer: OtherForm, path: Path, now: float) -> DropReason | None:
        """Answer again a request that was taken and comes in other fragments, if the first of them is authentic.

        Its sender fell back to fragments, or to smaller ones, because the answer was lost (RFC 7383 2.5.1, 2.6.1).
        """
        if message.fragment is None or message.fragment.number != 1:
            return DropReason.IKE_RETRANSMIT_MISMATCH  # one of them is answered; what comes whole is no repetition
        try:
            open_fragment(message, self._pair.opener)
        except (BadIcv, WireError):
            return DropReason.IKE_RETRANSMIT_MISMATCH
        return self.repeat(answer.datagrams, path, now)

    def padding(self, ip_bytes: int, path: Path, kind: int) -> tuple[Payload, ...]:
        """Return notifies of a status type that fill one IP datagram of this size, or the next smaller that can be."""
        left = self._pair.sealer.room_for(ip_bytes, 6 if ":" in path.remote.address else 4)
        found: list[Payload] = []
        while left >= _NOTIFY_BYTES:
            data = min(left - _NOTIFY_BYTES, MAX_NOTIFY_BYTES)
            if 0 < left - _NOTIFY_BYTES - data < _NOTIFY_BYTES:
                data -= _NOTIFY_BYTES                  # what is left holds another one
            found.append(NotifyPayload(kind, bytes(data)))
            left -= _NOTIFY_BYTES + data
        return tuple(found)

    def _renew(self) -> None:
        """Take the session's keys.  Only other keys make a new pair: with the same ones its IVs would begin again."""
        old, new = self._keys, self._session.crypto.keys
        if (old.sk_ei, old.sk_er) != (new.sk_ei, new.sk_er):
            self._keys, self._pair = new, self._make_pair()
            self._requests.clear()
            self._responses.clear()

    def _make_pair(self) -> SkPair:
        crypto = self._session.crypto
        return sk_pair(crypto.suite, crypto.keys, original_initiator=crypto.original_initiator,
                       rng=self._session.host.rng)

    def seal(self, payloads: tuple[Payload, ...], *, exchange: int, message_id: int, response: bool,
             path: Path, at_most: int | None = None) -> tuple[bytes, ...]:
        """Return the datagrams of a message: one, or fragments of IP datagrams of `at_most` bytes (0: of any size).

        By default the peer entry says how large they may be.
        """
        crypto = self._session.crypto
        fragment_bytes = self._session.peer.ike.fragment_bytes if at_most is None else at_most
        flags = (FLAG_INITIATOR if crypto.original_initiator else 0) | (FLAG_RESPONSE if response else 0)
        fields = MessageFields(crypto.spi_i, crypto.spi_r, exchange, flags, message_id)
        if not self.fragmentation or fragment_bytes == 0:
            return (self._pair.sealer.seal_message(fields, payloads),)
        return self._pair.sealer.seal_fragments(fields, payloads, max_ip_bytes=fragment_bytes,
                                                ip_version=6 if ":" in path.remote.address else 4)

    def open(self, sealed: SealedMessage, now: float) -> OpenedMessage | DropReason | None:
        """Return the message, None while fragments are missing, or why a fragment is dropped.

        Raises BadIcv, and WireError for an authentic message that does not parse.
        """
        reassembly = self._responses if sealed.header.is_response else self._requests
        if sealed.fragment is None:
            opened = open_message(sealed, self._pair.opener)
            reassembly.clear()
            self._watch()
            return opened
        if not self.fragmentation:
            return DropReason.IKE_FRAGMENT      # RFC 7383 2.3: only where both ends announced it
        whole = reassembly.add(open_fragment(sealed, self._pair.opener), now)
        self._watch()
        return whole

    def expire(self, now: float) -> None:
        """Give up the sets of fragments that stayed incomplete for too long."""
        for reassembly in (self._requests, self._responses):
            if reassembly.expires_at is not None and reassembly.expires_at <= now:
                reassembly.clear()
        self._watch()

    def _watch(self) -> None:
        ends = [r.expires_at for r in (self._requests, self._responses) if r.expires_at is not None]
        timer = Timer(TimerKind.FRAGMENTS)
        if ends:
            self._session.timers.arm(timer, min(ends), timer.kind.value)
        else:
            self._session.timers.cancel(timer)

    def trace(self, direction: str, payloads: tuple[Payload, ...], *, exchange: int, message_id: int, response: bool,
              path: Path) -> None:
        """Publish a message by the names of its payloads."""
        peer = "" if isinstance(self._session.state, InitAnswered) else self._session.peer.name
        self._session.emit(IkeMessage(direction, peer, enum_name(ExchangeType, exchange), response, message_id,
                                      tuple(names(payloads, is_response=response)), str(path)))

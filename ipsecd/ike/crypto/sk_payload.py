"""The Encrypted payload, whole (RFC 7296 3.14, RFC 5282) and in fragments (RFC 7383): what we send is sealed here, and
what came is opened.

Trust is a type: an `OpenedMessage` comes from `open_message`, or from `join` over fragments that `open_fragment`
opened, and from nowhere else.  Both check the ICV with a key of the IKE SA before a byte is looked at.

Body of the payload: [fragment number(2) total(2)] IV | ciphertext of (payloads | padding | pad length(1)) | ICV.
The ICV covers the datagram from the first byte of the IKE header, in which all lengths are final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ipsecd.aead import Sealer, make_sealer
from ipsecd.errors import BadIcv, LocalError, WireError
from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.crypto.digest import request_digest
from ipsecd.ike.crypto.int_auth import covered
from ipsecd.ike.crypto.keymat import IkeKeys
from ipsecd.ike.wire.cursor import u16
from ipsecd.ike.wire.header import HEADER_BYTES, VERSION, IkeHeader
from ipsecd.ike.wire.message import (
    GENERIC_HEADER_BYTES,
    MAX_FRAGMENTS,
    MAX_PAYLOADS,
    Payload,
    SealedMessage,
    build_payloads,
    generic_header,
    parse_payloads,
)
from ipsecd.ike.wire.payloads import UnknownPayload
from ipsecd.rng import Rng
from ipsecd.secret import Secret
from ipsecd.suites import IkeSuite

# Specification constants
FRAGMENT_HEADER_BYTES = 4                          # RFC 7383 2.5
UDP_AND_MARKER_BYTES = 8 + 4                       # RFC 768, RFC 3948 2.2; the marker counts on port 500 too
IP_HEADER_BYTES: Final[dict[int, int]] = {4: 20, 6: 40}
_AEAD_IVS = 1 << 64

_OPENED: Final = object()                          # known to this module alone: the mark of what was opened here


class MessageFields(NamedTuple):
    """The fields of an IKE header that the sender decides."""

    spi_i: bytes
    spi_r: bytes
    exchange: int
    flags: int
    message_id: int


@dataclass(frozen=True, slots=True)
class OpenedMessage:
    """A message that the holder of the IKE SA's key sent; whether that is the peer, AUTH tells (RFC 7296 2.15).

    `digest` identifies the request in a `ResponderWindow`; `int_auth` is what AUTH covers of an IKE_INTERMEDIATE
    message, empty for others.
    """

    header: IkeHeader
    payloads: tuple[Payload, ...]
    digest: bytes
    int_auth: bytes
    mark: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_mark(self.mark)


@dataclass(frozen=True, slots=True)
class OpenedFragment:
    """An authentic piece of a message (RFC 7383 2.6)."""

    header: IkeHeader
    number: int
    total: int
    first_inner: int
    plaintext: bytes
    clear_payloads: tuple[Payload, ...]     # beside the fragment; they count toward the limit of the message
    digest: bytes
    mark: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_mark(self.mark)


class SkSealer:
    """Seals what we send under one direction's keys, and owns their IVs: no IV is used twice with a key.

    Combined modes count (RFC 5282 3.1 demands unique, not unpredictable); the counter is never restored from anywhere.
    AES-CBC draws each IV (RFC 7296 3.14 demands unpredictable).
    """

    __slots__ = ("_aead", "_block_bytes", "_next_iv", "_rng", "_sealer")

    def __init__(self, suite: IkeSuite, *, encr_key: Secret, integ_key: Secret, rng: Rng) -> None:
        self._sealer = make_sealer(suite.encr, suite.integ, encr_key=encr_key, integ_key=integ_key)
        self._aead = suite.encr.aead
        # RFC 5282 3: no padding is needed with a combined mode; the Pad Length octet stays.
        self._block_bytes = 1 if suite.encr.aead else suite.encr.block_bytes
        self._rng = rng
        self._next_iv = 0

    def seal_message(self, fields: MessageFields, payloads: Sequence[Payload]) -> bytes:
        """Return one datagram with everything in one SK payload."""
        first, plaintext = build_payloads(payloads)
        return self._seal(fields, PayloadType.SK, first, b"", plaintext)

    def seal_fragments(self, fields: MessageFields, payloads: Sequence[Payload], *, max_ip_bytes: int,
                       ip_version: int) -> tuple[bytes, ...]:
        """Return datagrams that each fit an IP packet of `max_ip_bytes`; one plain SK message where that fits.

        Raises LocalError where MAX_FRAGMENTS pieces do not hold the message.
        """
        first, plaintext = build_payloads(payloads)
        room = max_ip_bytes - overhead_bytes(ip_version)
        if len(plaintext) <= self._capacity(room):
            return (self._seal(fields, PayloadType.SK, first, b"", plaintext),)
        step = self._capacity(room - FRAGMENT_HEADER_BYTES)
        total = -(-len(plaintext) // step) if step > 0 else 0
        if not 0 < total <= MAX_FRAGMENTS:
            raise LocalError(f"{len(plaintext)} bytes do not fit into {MAX_FRAGMENTS} fragments of {max_ip_bytes}")
        # RFC 7383 2.5: only the first fragment names the first payload inside.
        return tuple(
            self._seal(fields, PayloadType.SKF, first if number == 1 else int(PayloadType.NONE),
                       u16(number, "fragment number") + u16(total, "total fragments"),
                       plaintext[(number - 1) * step:number * step])
            for number in range(1, total + 1))

    def room_for(self, ip_bytes: int, ip_version: int) -> int:
        """Return how many bytes of payloads one IP datagram of this size holds, or the next smaller one that can be."""
        return self._capacity(ip_bytes - overhead_bytes(ip_version))

    def _capacity(self, room: int) -> int:
        """Return how many bytes of payloads an SK message of `room` bytes holds."""
        fixed = HEADER_BYTES + GENERIC_HEADER_BYTES + self._sealer.iv_bytes + self._sealer.icv_bytes
        return (room - fixed) // self._block_bytes * self._block_bytes - 1

    def _seal(self, fields: MessageFields, outer: int, first_inner: int, fragment: bytes, payloads: bytes) -> bytes:
        pad = -(len(payloads) + 1) % self._block_bytes
        plaintext = payloads + bytes(pad) + bytes([pad])
        body_bytes = len(fragment) + self._sealer.iv_bytes + len(plaintext) + self._sealer.icv_bytes
        header = IkeHeader(fields.spi_i, fields.spi_r, outer, VERSION, fields.exchange, fields.flags,
                           fields.message_id, HEADER_BYTES + GENERIC_HEADER_BYTES + body_bytes)
        clear = header.build() + generic_header(first_inner, body_bytes) + fragment
        iv = self._take_iv()
        return clear + iv + self._sealer.seal(iv, plaintext, clear)

    def _take_iv(self) -> bytes:
        if not self._aead:
            return self._rng.random_bytes(self._sealer.iv_bytes)
        if self._next_iv == _AEAD_IVS:
            raise LocalError("IVs are used up")
        iv = self._next_iv.to_bytes(self._sealer.iv_bytes, "big")
        self._next_iv += 1
        return iv


def overhead_bytes(ip_version: int) -> int:
    """Return what lies around an IKE message in its IP datagram, the non-ESP marker with it."""
    return IP_HEADER_BYTES[ip_version] + UDP_AND_MARKER_BYTES


class SkOpener:
    """The keys of what the peer sends; `open_message` and `open_fragment` use it."""

    __slots__ = ("_sealer",)

    def __init__(self, suite: IkeSuite, *, encr_key: Secret, integ_key: Secret) -> None:
        self._sealer = make_sealer(suite.encr, suite.integ, encr_key=encr_key, integ_key=integ_key)

    def open(self, sealed: SealedMessage) -> bytes:
        """Return the payloads without padding; raise BadIcv, or WireError for authentic bytes of a wrong form."""
        return _without_padding(_open(self._sealer, sealed))


class SkPair(NamedTuple):
    """Both directions of one IKE SA."""

    sealer: SkSealer
    opener: SkOpener


def sk_pair(suite: IkeSuite, keys: IkeKeys, *, original_initiator: bool, rng: Rng) -> SkPair:
    """Return what protects an IKE SA; the original initiator sends under SK_ei and SK_ai (RFC 7296 2.14)."""
    i, r = (keys.sk_ei, keys.sk_ai), (keys.sk_er, keys.sk_ar)
    sends, receives = (i, r) if original_initiator else (r, i)
    return SkPair(SkSealer(suite, encr_key=sends[0], integ_key=sends[1], rng=rng),
                  SkOpener(suite, encr_key=receives[0], integ_key=receives[1]))


def open_message(sealed: SealedMessage, opener: SkOpener) -> OpenedMessage:
    """Open a message that came whole.

    Raises BadIcv, after which nothing may change; or WireError, and then the message is authentic and malformed inside.
    """
    if sealed.fragment is not None:
        raise LocalError("a fragment is no whole message")
    plaintext = opener.open(sealed)
    return _opened(sealed.header, sealed.first_inner, plaintext, clear_payloads=sealed.clear_payloads,
                   digest=request_digest(sealed.datagram))


def open_fragment(sealed: SealedMessage, opener: SkOpener) -> OpenedFragment:
    """Open one fragment, for `ike.fragments`; raises as `open_message` does."""
    if sealed.fragment is None:
        raise LocalError("a whole message is no fragment")
    return OpenedFragment(sealed.header, sealed.fragment.number, sealed.fragment.total, sealed.first_inner,
                          opener.open(sealed), sealed.clear_payloads, request_digest(sealed.datagram), _OPENED)


def join(fragments: Sequence[OpenedFragment]) -> OpenedMessage:
    """Return the message that all its fragments, in order, make up (RFC 7383 2.6).

    Raises WireError where the whole does not parse; it is authentic then.
    """
    first = fragments[0]
    expected = [(number, len(fragments), first.header.message_id, first.header.exchange)
                for number in range(1, len(fragments) + 1)]
    if [(f.number, f.total, f.header.message_id, f.header.exchange) for f in fragments] != expected:
        raise LocalError("these are not all fragments of one message")
    plaintext = b"".join(f.plaintext for f in fragments)
    return _opened(first.header, first.first_inner, plaintext, digest=first.digest,
                   clear_payloads=max((f.clear_payloads for f in fragments), key=len))


def _opened(header: IkeHeader, first_inner: int, plaintext: bytes, *, clear_payloads: tuple[Payload, ...],
            digest: bytes) -> OpenedMessage:
    inner = parse_payloads(first_inner, plaintext, limit=MAX_PAYLOADS - len(clear_payloads))
    # What stands beside the Encrypted payload is ignored, unless it must not be (RFC 7296 2.5): the rules refuse it.
    payloads = (*(p for p in clear_payloads if isinstance(p, UnknownPayload) and p.critical), *inner)
    if header.exchange != ExchangeType.IKE_INTERMEDIATE:
        return OpenedMessage(header, payloads, digest, b"", _OPENED)
    if clear_payloads:
        raise WireError("IKE_INTERMEDIATE with payloads beside the Encrypted one")
    return OpenedMessage(header, payloads, digest, covered(header, first_inner, plaintext), _OPENED)


def _open(sealer: Sealer, sealed: SealedMessage) -> bytes:
    clear, body = sealed.datagram[:sealed.body_offset], sealed.datagram[sealed.body_offset:]
    if len(body) <= sealer.iv_bytes + sealer.icv_bytes:
        raise BadIcv("Encrypted payload shorter than IV, pad length and ICV")
    return sealer.open(body[:sealer.iv_bytes], body[sealer.iv_bytes:], clear)


def _without_padding(plaintext: bytes) -> bytes:
    # RFC 7296 3.14: "The recipient MUST accept any length that results in proper alignment".
    length = len(plaintext) - 1 - plaintext[-1]
    if length < 0:
        raise WireError("more padding than plaintext")
    return plaintext[:length]


def _check_mark(mark: object) -> None:
    if mark is not _OPENED:
        raise LocalError("only sk_payload makes opened messages")

"""Whole messages: the chain of payloads, and where the sealed part of a protected message begins (RFC 7296 3.2, 3.14).

`split` takes a datagram.  A `ClearMessage` is completely parsed; of a `SealedMessage` only what precedes the Encrypted
payload is, and ike.crypto.sk_payload opens the rest and gives it to `parse_payloads`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import NamedTuple

from ipsecd.errors import WireError
from ipsecd.ike.consts import NotifyType, PayloadType, enum_name
from ipsecd.ike.wire.cursor import Reader, u8, u16
from ipsecd.ike.wire.header import HEADER_BYTES, VERSION, IkeHeader
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    UnknownPayload,
    VendorPayload,
)
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.ike.wire.ts_payload import TsPayload

Payload = (SaPayload | KePayload | IdPayload | CertPayload | CertreqPayload | AuthPayload | NoncePayload | NotifyPayload
           | DeletePayload | VendorPayload | TsPayload | CpPayload | EapPayload | UnknownPayload)

# Specification constants
GENERIC_HEADER_BYTES = 4                           # next payload, critical and reserved, length (RFC 7296 3.2)
GENERIC_HEADER = Struct("!BBH")                    # in that order
CRITICAL = 0x80
SEALED: tuple[int, ...] = (PayloadType.SK, PayloadType.SKF)
# Tuning
MAX_MESSAGE_BYTES = 65536                          # also what reassembly may reach
MAX_PAYLOADS = 64                                  # IKE_AUTH with a chain of 8 and 20 notifies has under 40
MAX_FRAGMENTS = 64                                 # 64 KiB in fragments of 1280 bytes takes 54

_PARSERS: dict[int, Callable[[bytes], Payload]] = {
    PayloadType.SA: SaPayload.parse,
    PayloadType.KE: KePayload.parse,
    PayloadType.IDI: partial(IdPayload.parse, payload_type=PayloadType.IDI),
    PayloadType.IDR: partial(IdPayload.parse, payload_type=PayloadType.IDR),
    PayloadType.CERT: CertPayload.parse,
    PayloadType.CERTREQ: CertreqPayload.parse,
    PayloadType.AUTH: AuthPayload.parse,
    PayloadType.NONCE: NoncePayload.parse,
    PayloadType.NOTIFY: NotifyPayload.parse,
    PayloadType.DELETE: DeletePayload.parse,
    PayloadType.VENDOR: VendorPayload.parse,
    PayloadType.TSI: partial(TsPayload.parse, payload_type=PayloadType.TSI),
    PayloadType.TSR: partial(TsPayload.parse, payload_type=PayloadType.TSR),
    PayloadType.CP: CpPayload.parse,
    PayloadType.EAP: EapPayload.parse,
}
_NAMES: dict[int, str] = {
    PayloadType.SA: "SA", PayloadType.KE: "KE", PayloadType.IDI: "IDi", PayloadType.IDR: "IDr",
    PayloadType.CERT: "CERT", PayloadType.CERTREQ: "CERTREQ", PayloadType.AUTH: "AUTH", PayloadType.DELETE: "D",
    PayloadType.VENDOR: "V", PayloadType.TSI: "TSi", PayloadType.TSR: "TSr", PayloadType.CP: "CP",
    PayloadType.EAP: "EAP",
}


class Fragment(NamedTuple):
    """Which piece of a message this is, from 1, and of how many (RFC 7383 2.5)."""

    number: int
    total: int


@dataclass(frozen=True, slots=True)
class ClearMessage:
    """A message without an Encrypted payload; nothing in it is authenticated."""

    header: IkeHeader
    payloads: tuple[Payload, ...]


@dataclass(frozen=True, slots=True)
class SealedMessage:
    """A message whose last payload is SK or SKF, still sealed.

    `datagram[:body_offset]` is what the ICV covers beside the ciphertext (RFC 5282 5.1, RFC 7383 2.5);
    `datagram[body_offset:]` is IV, ciphertext and ICV.  `first_inner` is the type of the first payload inside, 0 for
    none, and for all fragments but the first.
    """

    header: IkeHeader
    datagram: bytes
    clear_payloads: tuple[Payload, ...]
    body_offset: int
    first_inner: int
    fragment: Fragment | None = None


def split(datagram: bytes, header: IkeHeader | None = None) -> SealedMessage | ClearMessage:
    """Parse a whole IKE message, without the non-ESP marker, as far as it is readable; raise WireError.

    The caller has looked at the version before (`IkeHeader.parse`), and may hand that header over: payloads of other
    major versions are not read.
    """
    if len(datagram) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(datagram)} bytes")
    header = header or IkeHeader.parse(datagram)
    if header.major != VERSION >> 4:
        raise WireError(f"major version {header.major}")
    reader = Reader(datagram)
    reader.skip(HEADER_BYTES)
    payloads, sealed = _chain(header.next_payload, reader, MAX_PAYLOADS)
    if sealed is None:
        reader.end()
        return ClearMessage(header, payloads)
    return _sealed(header, datagram, payloads, sealed)


def parse_payloads(first: int, data: bytes, *, limit: int = MAX_PAYLOADS) -> tuple[Payload, ...]:
    """Parse a chain of at most `limit` payloads, the first of type `first`, that fills `data`; raise WireError."""
    reader = Reader(data)
    payloads, sealed = _chain(first, reader, limit)
    if sealed is not None:
        raise WireError("Encrypted payload inside of another")
    reader.end()
    return payloads


class _SealedPayload(NamedTuple):
    type: int
    first_inner: int
    body: Reader


def _chain(first: int, reader: Reader, limit: int) -> tuple[tuple[Payload, ...], _SealedPayload | None]:
    payloads: list[Payload] = []
    type_ = first
    while type_ != PayloadType.NONE:
        if len(payloads) == limit:
            raise WireError(f"more than {limit} payloads")
        next_type, flags, length = reader.unpack(GENERIC_HEADER)
        body = reader.block(length, counted=GENERIC_HEADER_BYTES)
        if type_ in SEALED:
            reader.end()                           # RFC 7296 3.14: it "MUST be the last payload in the message"
            return tuple(payloads), _SealedPayload(type_, next_type, body)
        payloads.append(_parse_one(type_, bool(flags & CRITICAL), body.rest()))
        type_ = next_type
    return tuple(payloads), None


def _parse_one(type_: int, critical: bool, body: bytes) -> Payload:
    # RFC 7296 3.2: the critical flag is ignored on payload types that the recipient understands.
    parser = _PARSERS.get(type_)
    if parser is None:
        return UnknownPayload(type_, critical, body)
    try:
        return parser(body)
    except WireError as error:
        raise WireError(f"payload {enum_name(PayloadType, type_)}: {error}") from error


def _sealed(header: IkeHeader, datagram: bytes, payloads: tuple[Payload, ...], sealed: _SealedPayload) -> SealedMessage:
    body, fragment = sealed.body, None
    if sealed.type == PayloadType.SKF:
        fragment = Fragment(number=body.u16(), total=body.u16())
        if not 1 <= fragment.number <= fragment.total <= MAX_FRAGMENTS:
            raise WireError(f"fragment {fragment.number} of {fragment.total}")
        # RFC 7383 2.5: the first fragment names the first payload inside; in all others the field is zero.
        if (fragment.number == 1) != bool(sealed.first_inner):
            raise WireError(f"fragment {fragment.number} with next payload {sealed.first_inner}")
    return SealedMessage(header, datagram, payloads, body.offset, sealed.first_inner, fragment)


def build_clear(*, spi_i: bytes, spi_r: bytes, exchange: int, flags: int, message_id: int,
                payloads: Sequence[Payload]) -> bytes:
    """Return a whole unprotected message: IKE_SA_INIT, or an error outside any IKE SA (RFC 7296 1.5)."""
    first, body = build_payloads(payloads)
    header = IkeHeader(spi_i, spi_r, first, VERSION, exchange, flags, message_id, HEADER_BYTES + len(body))
    return header.build() + body


def build_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Return the type of the first payload (0 for none) and the chain; raise LocalError when a length does not fit."""
    types = [p.payload_type for p in payloads] + [int(PayloadType.NONE)]
    parts: list[bytes] = []
    for payload, next_type in zip(payloads, types[1:], strict=True):
        body = payload.build()
        critical = isinstance(payload, UnknownPayload) and payload.critical
        parts += (generic_header(next_type, len(body), critical=critical), body)
    return types[0], b"".join(parts)


def generic_header(next_payload: int, body_bytes: int, *, critical: bool = False) -> bytes:
    """Return the generic header of a payload whose body has `body_bytes` bytes (RFC 7296 3.2)."""
    return (u8(next_payload, "next payload") + (b"\x80" if critical else b"\0")
            + u16(GENERIC_HEADER_BYTES + body_bytes, "payload length"))


def names(payloads: Sequence[Payload], *, is_response: bool = False) -> list[str]:
    """Name payloads in order as the RFC writes them, for events and logs: SA, KE, Ni, N(COOKIE), TSi.  Never raises."""
    return [_name(p, "Nr" if is_response else "Ni") for p in payloads]


def _name(payload: Payload, nonce: str) -> str:
    if isinstance(payload, NoncePayload):
        return nonce
    if isinstance(payload, NotifyPayload):
        return f"N({enum_name(NotifyType, payload.type)})"
    return _NAMES.get(payload.payload_type, f"payload {payload.payload_type}")

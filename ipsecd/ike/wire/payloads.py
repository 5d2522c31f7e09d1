"""The payloads of few fields (RFC 7296 3.4-3.9, 3.11, 3.12, 3.15, 3.16); SA, TS and N have files of their own.

Each class holds the body of one payload, without the generic header: `parse` takes that body, `build` returns it.
`payload_type` is a class attribute where the class has one number, a field where it serves several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ipsecd.errors import WireError
from ipsecd.ike.consts import IdType, PayloadType, ProtocolId
from ipsecd.ike.wire.cursor import Reader, exactly, u8, u15, u16

# Specification constants
MIN_NONCE_BYTES = 16                               # RFC 7296 2.10, 3.9
MAX_NONCE_BYTES = 256
ADDRESS_ID_BYTES: dict[int, int] = {IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16}
TEXT_IDS: tuple[int, ...] = (IdType.FQDN, IdType.RFC822_ADDR)
DELETE_SPI_BYTES: dict[int, int] = {ProtocolId.IKE: 0, ProtocolId.AH: 4, ProtocolId.ESP: 4}
EAP_HEADER_BYTES = 4                               # code, identifier, length (RFC 3748 4)
# Tuning
MAX_ID_BYTES = 1024                                # a DN with every usual attribute is under 500
MAX_CERT_BYTES = 16384                             # a certificate with RSA-8192 or ML-DSA-87 is under 12 KiB
MAX_DELETE_SPIS = 64                               # children of one IKE SA that go at a time
MAX_CFG_ATTRIBUTES = 64                            # gateways answer with a score of addresses, subnets and domains


@dataclass(frozen=True, slots=True)
class KePayload:
    """RFC 7296 3.4: method(2) reserved(2) data(n).  Whether the data suits the method is for ike.crypto to say."""

    payload_type: ClassVar[int] = PayloadType.KE
    method: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> KePayload:
        """Read the body; raise WireError."""
        reader = Reader(body)
        method = reader.u16()
        reader.skip(2)
        return cls(method, reader.rest())

    def build(self) -> bytes:
        """Return the body."""
        return u16(self.method, "KE method") + bytes(2) + self.data


@dataclass(frozen=True, slots=True)
class IdPayload:
    """RFC 7296 3.5: type(1) reserved(3) data(n), for IDi and IDr.

    `build()` is what AUTH hashes (RFC 7296 2.15); so `reserved` keeps the octets as received, zero or not.
    """

    payload_type: int
    id_type: int
    data: bytes
    reserved: bytes = b"\0\0\0"

    @classmethod
    def parse(cls, body: bytes, *, payload_type: int) -> IdPayload:
        """Read the body; raise WireError, also for data that its ID type cannot have.  Unknown types are kept."""
        reader = Reader(body)
        payload = cls(payload_type, reader.u8(), reserved=reader.take(3), data=reader.rest())
        payload._check_data()
        return payload

    def _check_data(self) -> None:
        size = len(self.data)
        if size > MAX_ID_BYTES:
            raise WireError(f"identity of {size} bytes")
        if size != ADDRESS_ID_BYTES.get(self.id_type, size):
            raise WireError(f"address identity of {size} bytes")
        # RFC 7296 3.5: "The string MUST NOT contain any terminators"; one would match less than it shows.
        if self.id_type in TEXT_IDS and (not self.data or b"\0" in self.data):
            raise WireError("name identity that is empty or contains NUL")

    def build(self) -> bytes:
        """Return the body."""
        return u8(self.id_type, "ID type") + exactly(self.reserved, 3, "reserved of ID") + self.data


@dataclass(frozen=True, slots=True)
class CertPayload:
    """RFC 7296 3.6: encoding(1) data(n)."""

    payload_type: ClassVar[int] = PayloadType.CERT
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> CertPayload:
        """Read the body; raise WireError."""
        return cls(*_encoded(body))

    def build(self) -> bytes:
        """Return the body."""
        return u8(self.encoding, "certificate encoding") + self.data


@dataclass(frozen=True, slots=True)
class CertreqPayload:
    """RFC 7296 3.7: encoding(1) authorities(n): concatenated SHA-1 hashes for X.509."""

    payload_type: ClassVar[int] = PayloadType.CERTREQ
    encoding: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> CertreqPayload:
        """Read the body; raise WireError."""
        return cls(*_encoded(body))

    def build(self) -> bytes:
        """Return the body."""
        return u8(self.encoding, "certificate encoding") + self.data


def _encoded(body: bytes) -> tuple[int, bytes]:
    reader = Reader(body)
    encoding, data = reader.u8(), reader.rest()
    if len(data) > MAX_CERT_BYTES:
        raise WireError(f"certificate data of {len(data)} bytes")
    return encoding, data


@dataclass(frozen=True, slots=True)
class AuthPayload:
    """RFC 7296 3.8: method(1) reserved(3) data(n)."""

    payload_type: ClassVar[int] = PayloadType.AUTH
    method: int
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> AuthPayload:
        """Read the body; raise WireError."""
        reader = Reader(body)
        method = reader.u8()
        reader.skip(3)
        return cls(method, reader.rest())

    def build(self) -> bytes:
        """Return the body."""
        return u8(self.method, "AUTH method") + bytes(3) + self.data


@dataclass(frozen=True, slots=True)
class NoncePayload:
    """RFC 7296 3.9: data(16-256)."""

    payload_type: ClassVar[int] = PayloadType.NONCE
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> NoncePayload:
        """Read the body; raise WireError for a nonce shorter than 16 or longer than 256 bytes."""
        if not MIN_NONCE_BYTES <= len(body) <= MAX_NONCE_BYTES:
            raise WireError(f"nonce of {len(body)} bytes")
        return cls(body)

    def build(self) -> bytes:
        """Return the body."""
        return self.data


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """RFC 7296 3.11: protocol(1) SPI size(1) count(2) SPIs.  The IKE SA itself: protocol IKE and no SPI."""

    payload_type: ClassVar[int] = PayloadType.DELETE
    protocol: int
    spis: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> DeletePayload:
        """Read the body; raise WireError, also for an SPI size that is not the protocol's."""
        with Reader(body) as reader:
            protocol, size, count = reader.u8(), reader.u8(), reader.u16()
            if DELETE_SPI_BYTES.get(protocol) != size:
                raise WireError(f"delete of protocol {protocol} with SPIs of {size} bytes")
            if count > (MAX_DELETE_SPIS if size else 0):
                raise WireError(f"delete of {count} SPIs")
            return cls(protocol, tuple(reader.take(size) for _ in range(count)))

    def build(self) -> bytes:
        """Return the body; raise LocalError for an SPI that is not of the protocol's size."""
        size = DELETE_SPI_BYTES.get(self.protocol, 0)
        return b"".join((
            u8(self.protocol, "protocol"), u8(size, "SPI size"), u16(len(self.spis), "number of SPIs"),
            *(exactly(spi, size, "SPI") for spi in self.spis)))


@dataclass(frozen=True, slots=True)
class VendorPayload:
    """RFC 7296 3.12: opaque."""

    payload_type: ClassVar[int] = PayloadType.VENDOR
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> VendorPayload:
        """Take the body as it is."""
        return cls(body)

    def build(self) -> bytes:
        """Return the body."""
        return self.data


@dataclass(frozen=True, slots=True)
class CfgAttribute:
    """RFC 7296 3.15.1: reserved(1 bit) type(15 bits) length(2) value(n)."""

    type: int
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class CpPayload:
    """RFC 7296 3.15: CFG type(1) reserved(3) attributes."""

    payload_type: ClassVar[int] = PayloadType.CP
    cfg_type: int
    attributes: tuple[CfgAttribute, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> CpPayload:
        """Read the body; raise WireError."""
        reader = Reader(body)
        cfg_type = reader.u8()
        reader.skip(3)
        attributes: list[CfgAttribute] = []
        while reader.remaining:
            if len(attributes) == MAX_CFG_ATTRIBUTES:
                raise WireError(f"more than {MAX_CFG_ATTRIBUTES} configuration attributes")
            attributes.append(CfgAttribute(reader.u16() & 0x7FFF, reader.take(reader.u16())))
        return cls(cfg_type, tuple(attributes))

    def build(self) -> bytes:
        """Return the body."""
        head = u8(self.cfg_type, "CFG type") + bytes(3)
        return head + b"".join(u15(a.type, "attribute type") + u16(len(a.value), "attribute length") + a.value
                               for a in self.attributes)


@dataclass(frozen=True, slots=True)
class EapPayload:
    """RFC 7296 3.16: one EAP packet, which holds its own length."""

    payload_type: ClassVar[int] = PayloadType.EAP
    data: bytes

    @classmethod
    def parse(cls, body: bytes) -> EapPayload:
        """Take the body; raise WireError when it is not exactly one EAP packet long (RFC 3748 4)."""
        reader = Reader(body)
        reader.skip(2)
        reader.block(reader.u16(), counted=EAP_HEADER_BYTES).rest()
        reader.end()
        return cls(body)

    def build(self) -> bytes:
        """Return the body."""
        return self.data


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload whose type we do not know: `critical` decides over the whole message (RFC 7296 2.5)."""

    payload_type: int
    critical: bool
    data: bytes

    def build(self) -> bytes:
        """Return the body."""
        return self.data

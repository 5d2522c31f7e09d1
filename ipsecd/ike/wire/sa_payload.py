"""The SA payload: proposals, their transforms and the attributes of those (RFC 7296 3.3).

The form is checked here (numbers, counts, last/more marks, SPI sizes); what a proposal means is for ike.negotiate.
Values that we do not know are kept: a proposal or transform that holds one is skipped, not an error (RFC 7296 3.3.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from ipsecd.errors import WireError
from ipsecd.ike.consts import AttributeType, PayloadType, ProtocolId
from ipsecd.ike.wire.cursor import Reader, u8, u15, u16
from ipsecd.suites import Proposal, Transform

# Specification constants
LAST = 0                                           # RFC 7296 3.3.1, 3.3.2
MORE_PROPOSALS = 2
MORE_TRANSFORMS = 3
PROPOSAL_HEADER_BYTES = 8
TRANSFORM_HEADER_BYTES = 8
SHORT_FORM = 0x8000                                # attribute with a 2-byte value in place of its length
SPI_BYTES: dict[int, tuple[int, ...]] = {ProtocolId.IKE: (0, 8), ProtocolId.AH: (4,), ProtocolId.ESP: (4,)}
_MARK_AND_LENGTH = Struct("!BxH")                  # x: reserved, ignored
_PROPOSAL = Struct("!BBBB")
_TRANSFORM = Struct("!BxH")
# Tuning: the longest offers of known peers have 9 proposals and 40 transforms in one
MAX_PROPOSALS = 64
MAX_TRANSFORMS = 64
MAX_ATTRIBUTES = 8                                 # only Key Length is defined


@dataclass(frozen=True, slots=True)
class Attribute:
    """RFC 7296 3.3.5: format(1 bit) type(15 bits), then a value of 2 bytes (`int`) or length(2) value (`bytes`)."""

    type: int
    value: int | bytes

    @classmethod
    def read(cls, reader: Reader) -> Attribute:
        """Read one attribute; raise WireError."""
        word = reader.u16()
        if word & SHORT_FORM:
            return cls(word & ~SHORT_FORM, reader.u16())
        return cls(word, reader.take(reader.u16()))

    def build(self) -> bytes:
        """Return the attribute."""
        if isinstance(self.value, int):
            return u16(SHORT_FORM + self.type, "attribute type") + u16(self.value, "attribute value")
        return u15(self.type, "attribute type") + u16(len(self.value), "attribute length") + self.value


@dataclass(frozen=True, slots=True)
class WireTransform:
    """RFC 7296 3.3.2: last/more(1) reserved(1) length(2) type(1) reserved(1) ID(2) attributes."""

    type: int
    id: int
    attributes: tuple[Attribute, ...] = ()

    @classmethod
    def of(cls, transform: Transform) -> WireTransform:
        """Return a transform of policy as it is offered."""
        if transform.key_bits is None:
            return cls(transform.type, transform.id)
        return cls(transform.type, transform.id, (Attribute(AttributeType.KEY_LENGTH, transform.key_bits),))

    def transform(self) -> Transform | None:
        """Return what is offered, None where attributes make it unusable (RFC 7296 3.3.6).

        That is: an attribute that we do not know, more than one, or a Key Length in the long form (3.3.5 forbids it).
        Types, IDs and key lengths that we do not know are returned; no table of ours holds them.
        """
        match self.attributes:
            case ():
                return Transform(self.type, self.id)
            case (Attribute(type=AttributeType.KEY_LENGTH, value=int(key_bits)),):
                return Transform(self.type, self.id, key_bits)
            case _:
                return None

    def build(self, *, more: bool) -> bytes:
        """Return the transform substructure."""
        attributes = b"".join(a.build() for a in self.attributes)
        return b"".join((
            u8(MORE_TRANSFORMS if more else LAST, "mark"), bytes(1),
            u16(TRANSFORM_HEADER_BYTES + len(attributes), "transform length"),
            u8(self.type, "transform type"), bytes(1), u16(self.id, "transform ID"), attributes))


@dataclass(frozen=True, slots=True)
class WireProposal:
    """RFC 7296 3.3.1: last/more(1) reserved(1) length(2) number(1) protocol(1) SPI size(1) transforms(1) SPI ..."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[WireTransform, ...]

    @classmethod
    def of(cls, proposal: Proposal, *, number: int, spi: bytes = b"") -> WireProposal:
        """Return a proposal of policy as it is offered."""
        return cls(number, proposal.protocol, spi, tuple(WireTransform.of(t) for t in proposal.transforms))

    def build(self, *, more: bool) -> bytes:
        """Return the proposal substructure."""
        last = len(self.transforms) - 1
        transforms = b"".join(t.build(more=i < last) for i, t in enumerate(self.transforms))
        return b"".join((
            u8(MORE_PROPOSALS if more else LAST, "mark"), bytes(1),
            u16(PROPOSAL_HEADER_BYTES + len(self.spi) + len(transforms), "proposal length"),
            u8(self.number, "proposal number"), u8(self.protocol, "protocol"), u8(len(self.spi), "SPI size"),
            u8(len(self.transforms), "number of transforms"), self.spi, transforms))


@dataclass(frozen=True, slots=True)
class SaPayload:
    """RFC 7296 3.3: one or more proposals."""

    payload_type: ClassVar[int] = PayloadType.SA
    proposals: tuple[WireProposal, ...]

    @classmethod
    def parse(cls, body: bytes) -> SaPayload:
        """Read the body; raise WireError.

        A single proposal may have any number but 0, because an answer repeats that of the chosen one (RFC 7296 3.3.1).
        """
        reader = Reader(body)
        proposals: list[WireProposal] = []
        more = True
        while more:
            if len(proposals) == MAX_PROPOSALS:
                raise WireError(f"more than {MAX_PROPOSALS} proposals")
            mark, length = reader.unpack(_MARK_AND_LENGTH)
            more = _more(mark, MORE_PROPOSALS)
            proposals.append(_parse_proposal(reader, length))
        reader.end()
        _check_numbers([p.number for p in proposals])
        return cls(tuple(proposals))

    def build(self) -> bytes:
        """Return the body."""
        last = len(self.proposals) - 1
        return b"".join(p.build(more=i < last) for i, p in enumerate(self.proposals))


def _more(mark: int, more: int) -> bool:
    if mark not in (LAST, more):
        raise WireError(f"last/more mark {mark}")
    return mark == more


def _parse_proposal(reader: Reader, length: int) -> WireProposal:
    with reader.block(length, counted=_MARK_AND_LENGTH.size) as fields:
        number, protocol, spi_bytes, count = fields.unpack(_PROPOSAL)
        if spi_bytes not in SPI_BYTES.get(protocol, (spi_bytes,)):
            raise WireError(f"proposal for protocol {protocol} with an SPI of {spi_bytes} bytes")
        if count > MAX_TRANSFORMS:
            raise WireError(f"{count} transforms")
        spi = fields.take(spi_bytes)
        return WireProposal(number, protocol, spi, tuple(_parse_transform(fields, last=i == count - 1)
                                                         for i in range(count)))


def _parse_transform(reader: Reader, *, last: bool) -> WireTransform:
    mark, length = reader.unpack(_MARK_AND_LENGTH)
    if _more(mark, MORE_TRANSFORMS) == last:
        raise WireError("number of transforms and last/more marks disagree")
    with reader.block(length, counted=_MARK_AND_LENGTH.size) as fields:
        type_, id_ = fields.unpack(_TRANSFORM)
        attributes: list[Attribute] = []
        while fields.remaining:
            if len(attributes) == MAX_ATTRIBUTES:
                raise WireError(f"more than {MAX_ATTRIBUTES} attributes")
            attributes.append(Attribute.read(fields))
    return WireTransform(type_, id_, tuple(attributes))


def _check_numbers(numbers: list[int]) -> None:
    # RFC 7296 3.3.1: the first "MUST be 1, and subsequent proposals MUST be one more than the previous".
    if numbers[0] == 0 or (len(numbers) > 1 and numbers != list(range(1, len(numbers) + 1))):
        raise WireError("proposal numbers " + ",".join(str(n) for n in numbers))

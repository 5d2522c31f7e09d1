"""The Traffic Selector payloads TSi and TSr (RFC 7296 3.13)."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.consts import TsType
from ipsecd.ike.wire.cursor import Reader, u8, u16, uint
from ipsecd.selectors import OPAQUE_PORTS, TrafficSelector

SELECTOR_HEADER_BYTES = 4                          # type, protocol, length
MAX_SELECTORS = 255                                # what the count octet can say; some peers send over a hundred
_VERSION_OF: dict[int, int] = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 6}
_TYPE_OF: dict[int, int] = {4: TsType.IPV4_ADDR_RANGE, 6: TsType.IPV6_ADDR_RANGE}
_ADDRESS_BYTES: dict[int, int] = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class TsPayload:
    """RFC 7296 3.13: count(1) reserved(3) selectors.

    `selectors` holds those of a type we know, and may be empty when the peer sent only others.
    """

    payload_type: int
    selectors: tuple[TrafficSelector, ...]

    @classmethod
    def parse(cls, body: bytes, *, payload_type: int) -> TsPayload:
        """Read the body; raise WireError.  Selectors of unknown types are skipped (RFC 7296 2.9)."""
        with Reader(body) as reader:
            count = reader.u8()
            reader.skip(3)
            if count == 0:
                raise WireError("no traffic selectors")
            found = [_parse_selector(reader) for _ in range(count)]
        return cls(payload_type, tuple(s for s in found if s is not None))

    def build(self) -> bytes:
        """Return the body."""
        return b"".join((u8(len(self.selectors), "number of selectors"), bytes(3),
                         *(_build_selector(s) for s in self.selectors)))


# RFC 7296 3.13.1: type(1) protocol(1) length(2) start port(2) end port(2) start address(n) end address(n)
def _parse_selector(reader: Reader) -> TrafficSelector | None:
    type_, protocol = reader.u8(), reader.u8()
    block = reader.block(reader.u16(), counted=SELECTOR_HEADER_BYTES)
    version = _VERSION_OF.get(type_)
    if version is None:
        return None
    size = _ADDRESS_BYTES[version]
    with block as fields:
        port_low, port_high = fields.u16(), fields.u16()
        low, high = fields.uint(size), fields.uint(size)
    if low > high:
        raise WireError("traffic selector whose addresses fall")
    if port_low > port_high and (port_low, port_high) != OPAQUE_PORTS:
        raise WireError("traffic selector whose ports fall")
    return TrafficSelector(version, low, high, protocol, port_low, port_high)


def _build_selector(selector: TrafficSelector) -> bytes:
    if selector.version not in _TYPE_OF:
        raise LocalError(f"selector of IP version {selector.version}")
    size = _ADDRESS_BYTES[selector.version]
    return b"".join((
        u8(_TYPE_OF[selector.version], "TS type"), u8(selector.protocol, "protocol"),
        u16(SELECTOR_HEADER_BYTES + 4 + 2 * size, "selector length"),
        u16(selector.port_low, "start port"), u16(selector.port_high, "end port"),
        uint(selector.low, size, "start address"), uint(selector.high, size, "end address")))

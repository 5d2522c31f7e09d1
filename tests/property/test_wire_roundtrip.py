"""decode(encode(x)) == x for every payload, and for messages of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.wire.header import HEADER_BYTES, VERSION, IkeHeader
from ipsecd.ike.wire.message import (
    ClearMessage,
    Fragment,
    Payload,
    SealedMessage,
    build_clear,
    build_payloads,
    generic_header,
    names,
    parse_payloads,
    split,
)
from tests.support.wire_strategies import payloads, some_bytes, spi8, u8

u32 = st.integers(0, 2**32 - 1)
chains = st.lists(payloads, max_size=8)


@given(chains)
@settings(max_examples=300)
def test_payload_chain_survives_build_and_parse(chain: list[Payload]) -> None:
    assert parse_payloads(*build_payloads(chain)) == tuple(chain)
    assert len(names(chain)) == len(chain)


@given(spi8, spi8, u8, u8, u32, chains)
def test_clear_message_survives_build_and_split(spi_i, spi_r, exchange, flags, message_id, chain) -> None:
    datagram = build_clear(spi_i=spi_i, spi_r=spi_r, exchange=exchange, flags=flags, message_id=message_id,
                           payloads=chain)
    first = chain[0].payload_type if chain else 0
    header = IkeHeader(spi_i, spi_r, first, VERSION, exchange, flags, message_id, len(datagram))
    assert split(datagram) == ClearMessage(header, tuple(chain))
    assert IkeHeader.parse(datagram) == header


@given(st.lists(payloads, max_size=3), st.integers(1, 255), some_bytes, st.none() | st.integers(1, 64), st.data())
def test_sealed_message_keeps_what_is_clear_and_where_the_sealed_part_begins(chain, inner, body, total, data) -> None:
    fragment = None if total is None else Fragment(data.draw(st.integers(1, total)), total)
    first_inner = inner if fragment is None or fragment.number == 1 else 0
    prefix = b"" if fragment is None else fragment.number.to_bytes(2, "big") + fragment.total.to_bytes(2, "big")
    datagram = seal(chain, first_inner, prefix + body, PayloadType.SKF if fragment else PayloadType.SK)

    message = split(datagram)

    assert isinstance(message, SealedMessage)
    assert (message.clear_payloads, message.first_inner, message.fragment) == (tuple(chain), first_inner, fragment)
    assert datagram[message.body_offset:] == body


def seal(chain: list[Payload], first_inner: int, body: bytes, type_: int) -> bytes:
    """Join clear payloads and one SK or SKF payload into a message."""
    first, clear = build_payloads(chain)
    if chain:                                      # the last clear payload names the sealed one
        before = len(build_payloads(chain[:-1])[1])
        clear = clear[:before] + bytes([type_]) + clear[before + 1:]
    rest = clear + generic_header(first_inner, len(body)) + body
    return IkeHeader(b"i" * 8, b"r" * 8, first if chain else type_, VERSION, ExchangeType.IKE_AUTH, 0x08, 1,
                     HEADER_BYTES + len(rest)).build() + rest

from __future__ import annotations

import random

import pytest

from ipsecd.drops import DropReason
from ipsecd.errors import BadIcv, WireError
from ipsecd.ike.crypto.keymat import ike_keys
from ipsecd.ike.crypto.sk_payload import MessageFields, OpenedFragment, OpenedMessage, SkPair, open_fragment, sk_pair
from ipsecd.ike.fragments import SET_LIFE_S, Reassembly
from ipsecd.ike.wire.message import MAX_MESSAGE_BYTES, Payload, SealedMessage, split
from ipsecd.ike.wire.payloads import VendorPayload
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, PRFS, IkeSuite
from tests.unit.crypto.test_sk_payload import CountingRng

SUITE = IkeSuite(ENCRS[0], PRFS[0], None, 31)
FIELDS = MessageFields(b"initiate", b"responds", 35, 0x08, 1)
PAYLOADS: tuple[Payload, ...] = (VendorPayload(bytes(5000)), VendorPayload(b"end"))


@pytest.mark.parametrize("order", ["forward", "reversed", "random"])
def test_fragments_in_any_order_make_the_message(order: str) -> None:
    # FR-01
    pieces = opened(PAYLOADS)
    if order == "reversed":
        pieces.reverse()
    elif order == "random":
        random.Random(7).shuffle(pieces)
    reassembly = Reassembly()
    *waiting, last = [reassembly.add(piece, 0.0) for piece in pieces]
    assert waiting == [None] * (len(pieces) - 1)
    assert isinstance(last, OpenedMessage) and last.payloads == PAYLOADS
    assert reassembly.expires_at is None


def test_lost_fragment_comes_with_the_retransmission() -> None:
    # FR-02
    reassembly, pieces = Reassembly(), opened(PAYLOADS)
    for piece in pieces[:1] + pieces[2:]:
        reassembly.add(piece, 0.0)
    outcomes = [reassembly.add(piece, 1.0) for piece in pieces[:2]]
    assert outcomes[0] == DropReason.IKE_FRAGMENT
    assert isinstance(outcomes[1], OpenedMessage)


def test_first_authentic_copy_of_a_fragment_stays() -> None:
    # FR-03
    reassembly = Reassembly()
    first, other = opened(PAYLOADS), opened((VendorPayload(b"x" * 5007),))
    assert len(first) == len(other)
    reassembly.add(first[0], 0.0)
    assert reassembly.add(other[0], 0.0) == DropReason.IKE_FRAGMENT
    assert completed(reassembly, first[1:]).payloads == PAYLOADS


def test_larger_total_starts_over_and_smaller_is_dropped() -> None:
    # FR-05, FR-06
    few, many = opened(PAYLOADS, max_ip_bytes=1280), opened(PAYLOADS, max_ip_bytes=576)
    reassembly = Reassembly()
    for piece in few[:-1]:
        reassembly.add(piece, 0.0)
    assert reassembly.add(many[3], 0.0) is None
    assert list(reassembly._pieces) == [many[3].number]
    assert reassembly.add(few[-1], 0.0) == DropReason.IKE_FRAGMENT
    assert completed(reassembly, many[:3] + many[4:]).payloads == PAYLOADS


@pytest.mark.parametrize("fields", [FIELDS._replace(exchange=37), FIELDS._replace(flags=0x28),
                                    FIELDS._replace(message_id=0)])
def test_odd_fragment_is_dropped_and_the_set_stays(fields: MessageFields) -> None:
    # FR-09
    reassembly, pieces = Reassembly(), opened(PAYLOADS)
    reassembly.add(pieces[0], 0.0)
    assert reassembly.add(opened(PAYLOADS, fields=fields)[1], 0.0) == DropReason.IKE_FRAGMENT
    assert completed(reassembly, pieces[1:]).payloads == PAYLOADS


def test_later_message_takes_the_place_of_an_unfinished_one() -> None:
    reassembly = Reassembly()
    reassembly.add(opened(PAYLOADS)[0], 0.0)
    later = opened(PAYLOADS, fields=FIELDS._replace(message_id=2))
    assert completed(reassembly, later).header.message_id == 2


def test_forged_fragment_never_arrives_here() -> None:
    # FR-08: what is stored is an OpenedFragment, and a forged datagram does not become one
    left, right = ends()
    datagram = left.sealer.seal_fragments(FIELDS, PAYLOADS, max_ip_bytes=1280, ip_version=4)[0]
    with pytest.raises(BadIcv):
        open_fragment(sealed(datagram[:-1] + bytes([datagram[-1] ^ 1])), right.opener)


@pytest.mark.parametrize(("number", "total", "first_inner"), [
    (0, 2, 0), (0, 0, 43), (3, 2, 0), (1, 65, 43), (65, 65, 0),                   # FR-04
    (1, 2, 0), (2, 2, 43),                                                        # FR-07
])
def test_fragment_with_impossible_numbers_is_refused_by_codec_and_reassembly(number: int, total: int,
                                                                             first_inner: int) -> None:
    piece = opened(PAYLOADS)[0]
    broken = OpenedFragment(piece.header, number, total, first_inner, b"x", (), b"", piece.mark)
    assert Reassembly().add(broken, 0.0) == DropReason.IKE_FRAGMENT
    left, _ = ends()
    datagram = left.sealer.seal_fragments(FIELDS, PAYLOADS, max_ip_bytes=1280, ip_version=4)[0]
    changed = (datagram[:28] + bytes([first_inner]) + datagram[29:32] + number.to_bytes(2, "big")
               + total.to_bytes(2, "big") + datagram[36:])
    with pytest.raises(WireError):
        split(changed)


def test_sum_of_fragments_is_limited() -> None:
    # FR-13
    piece = opened(PAYLOADS)[0]
    reassembly = Reassembly()
    size = MAX_MESSAGE_BYTES // 8 + 1
    outcomes = [reassembly.add(OpenedFragment(piece.header, number, 9, 43 if number == 1 else 0, bytes(size), (), b"",
                                              piece.mark), 0.0) for number in range(1, 9)]
    assert outcomes == [None] * 7 + [DropReason.IKE_FRAGMENT]
    assert reassembly.expires_at is None


def test_unfinished_set_ends_after_its_time() -> None:
    # FR-13
    reassembly, pieces = Reassembly(), opened(PAYLOADS)
    reassembly.add(pieces[0], 100.0)
    assert reassembly.add(pieces[1], 100.0 + SET_LIFE_S) is None
    assert reassembly.expires_at == 100.0 + 2 * SET_LIFE_S
    reassembly.clear()
    assert reassembly.expires_at is None


def test_authentic_whole_that_does_not_parse_is_a_wire_error_and_is_forgotten() -> None:
    piece = opened(PAYLOADS)[0]
    reassembly = Reassembly()
    with pytest.raises(WireError):
        reassembly.add(OpenedFragment(piece.header, 1, 1, 43, b"\0\0\0\3", (), b"", piece.mark), 0.0)
    assert reassembly.expires_at is None


def test_64_fragments_in_worst_order_are_looked_at_once() -> None:
    # FR-15: each addition touches one entry; the pieces are joined once
    payloads = (VendorPayload(bytes(29000)),)
    pieces = opened(payloads, max_ip_bytes=548)
    assert len(pieces) == 64
    assert completed(Reassembly(), pieces[::-1]).payloads == payloads


def ends() -> tuple[SkPair, SkPair]:
    keys = ike_keys(SUITE, ni=bytes(32), nr=bytes(32), shared=Secret(b"s"), spi_i=b"initiate", spi_r=b"responds")
    return (sk_pair(SUITE, keys, original_initiator=True, rng=CountingRng()),
            sk_pair(SUITE, keys, original_initiator=False, rng=CountingRng()))


def sealed(datagram: bytes) -> SealedMessage:
    message = split(datagram)
    assert isinstance(message, SealedMessage)
    return message


def opened(payloads: tuple[Payload, ...], *, fields: MessageFields = FIELDS,
           max_ip_bytes: int = 1280) -> list[OpenedFragment]:
    left, right = ends()
    datagrams = left.sealer.seal_fragments(fields, payloads, max_ip_bytes=max_ip_bytes, ip_version=4)
    return [open_fragment(sealed(datagram), right.opener) for datagram in datagrams]


def completed(reassembly: Reassembly, pieces: list[OpenedFragment]) -> OpenedMessage:
    outcomes = [reassembly.add(piece, 0.0) for piece in pieces]
    assert isinstance(outcomes[-1], OpenedMessage)
    return outcomes[-1]

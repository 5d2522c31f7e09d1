"""What the door of the gateway sees of a request for a new IKE SA."""

from __future__ import annotations

import pytest

from ipsecd.errors import WireError
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.glance import Glance, glance
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.ike.wire.message import MAX_PAYLOADS, Payload, build_clear
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import KePayload, NoncePayload, VendorPayload

NONCE, KE = NoncePayload(b"n" * 32), KePayload(31, bytes(32))
COOKIE = NotifyPayload(NotifyType.COOKIE, b"c" * 35)


def test_nonce_is_found_behind_whatever_stands_before_it() -> None:
    assert look(KE, VendorPayload(b"v"), NONCE, VendorPayload(b"v")) == Glance(NONCE.data, None)


def test_cookie_is_seen_in_front_alone() -> None:
    # RFC 7296 2.6: the initiator returns it "as the first payload".
    assert look(COOKIE, KE, NONCE).cookie == COOKIE.data
    assert look(KE, COOKIE, NONCE).cookie is None
    assert look(NotifyPayload(NotifyType.REDIRECT_SUPPORTED), COOKIE, NONCE).cookie is None
    assert look(NotifyPayload(NotifyType.COOKIE, bytes(65)), NONCE).cookie is None


def test_what_stands_behind_the_nonce_is_not_looked_at() -> None:
    datagram = message(KE, NONCE, VendorPayload(b"v" * 8))
    broken = datagram[:-10] + b"\xff" * 10
    assert glance(broken, IkeHeader.parse(broken)).ni == NONCE.data


@pytest.mark.parametrize("payloads", [(), (KE,), (NoncePayload(b"n" * 15),),
                                      (*[VendorPayload(b"")] * MAX_PAYLOADS, NONCE)])
def test_request_without_a_way_to_its_nonce_is_an_error(payloads: tuple[Payload, ...]) -> None:
    with pytest.raises(WireError):
        look(*payloads)


def test_request_cut_before_the_end_of_its_nonce_is_an_error() -> None:
    whole = message(COOKIE, KE, NONCE)
    for size in range(28, len(whole)):
        cut = whole[:24] + size.to_bytes(4, "big") + whole[28:size]
        with pytest.raises(WireError):
            glance(cut, IkeHeader.parse(cut))


def look(*payloads: Payload) -> Glance:
    datagram = message(*payloads)
    return glance(datagram, IkeHeader.parse(datagram))


def message(*payloads: Payload) -> bytes:
    return build_clear(spi_i=b"i" * 8, spi_r=bytes(8), exchange=34, flags=8, message_id=0, payloads=payloads)

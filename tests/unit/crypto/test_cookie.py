from __future__ import annotations

import pytest

from ipsecd.ike.crypto.cookie import COOKIE_BYTES, COOKIE_LIFE_S, COOKIE_STEP_S, SECRET_LIFE_S, CookieJar
from tests.unit.crypto.test_sk_payload import CountingRng

ASKED = {"ni": bytes(range(32)), "source_address": "192.0.2.1", "spi_i": b"initiate"}


def test_cookie_is_taken_from_the_one_it_was_made_for() -> None:
    # IN-25
    jar = CookieJar(CountingRng(), 1000.0)
    cookie = jar.make(**ASKED, now=1001.0)
    assert len(cookie) == COOKIE_BYTES <= 64
    assert jar.check(cookie, **ASKED, now=1001.0)
    assert jar.check(cookie, **ASKED, now=1001.0 + COOKIE_LIFE_S)


@pytest.mark.parametrize("other", [
    {"ni": bytes(32)}, {"ni": bytes(range(31))}, {"source_address": "192.0.2.2"}, {"source_address": "2001:db8::1"},
    {"spi_i": b"somebody"},
])
def test_cookie_of_another_initiator_is_refused(other: dict[str, object]) -> None:
    # IN-26
    jar = CookieJar(CountingRng(), 0.0)
    cookie = jar.make(**ASKED, now=0.0)
    assert not jar.check(cookie, **{**ASKED, **other}, now=0.0)  # type: ignore[arg-type]


def test_mangled_cookie_is_refused() -> None:
    # IN-24
    jar = CookieJar(CountingRng(), 0.0)
    cookie = jar.make(**ASKED, now=5.0)
    for at in range(len(cookie)):
        assert not jar.check(cookie[:at] + bytes([cookie[at] ^ 1]) + cookie[at + 1:], **ASKED, now=5.0)
    for wrong in (b"", cookie[:-1], cookie + b"\0", bytes(64), bytes(65)):
        assert not jar.check(wrong, **ASKED, now=5.0)


def test_cookie_of_another_gateway_is_refused() -> None:
    rng = CountingRng()
    ours, theirs = CookieJar(rng, 0.0), CookieJar(rng, 0.0)
    assert not ours.check(theirs.make(**ASKED, now=0.0), **ASKED, now=0.0)


def test_expired_cookie_is_refused() -> None:
    # IN-24
    jar = CookieJar(CountingRng(), 0.0)
    assert not jar.check(jar.make(**ASKED, now=0.0), **ASKED, now=COOKIE_STEP_S + COOKIE_LIFE_S + 0.1)


def test_copies_of_a_request_within_a_step_get_the_same_cookie() -> None:
    # IN-28: which of two requests with a cookie each was answered, their sender could not tell.
    jar = CookieJar(CountingRng(), 0.0)
    assert len({jar.make(**ASKED, now=now) for now in (0.0, 0.5, 1.4, 2.9, COOKIE_STEP_S - 0.1)}) == 1
    assert jar.make(**ASKED, now=COOKIE_STEP_S) != jar.make(**ASKED, now=0.0)


def test_cookie_survives_one_rotation_of_the_secret() -> None:
    # IN-27
    jar = CookieJar(CountingRng(), 0.0)
    cookie = jar.make(**ASKED, now=SECRET_LIFE_S - 1)
    jar.make(**ASKED, now=SECRET_LIFE_S)
    assert jar.check(cookie, **ASKED, now=SECRET_LIFE_S + 1)


def test_cookie_ends_with_the_second_rotation() -> None:
    # IN-27
    jar = CookieJar(CountingRng(), 0.0)
    cookie = jar.make(**ASKED, now=0.0)
    for turn in range(1, 300):
        assert not jar.check(cookie, **ASKED, now=turn * SECRET_LIFE_S)


def test_every_rotation_draws_a_new_secret() -> None:
    rng = CountingRng()
    jar = CookieJar(rng, 0.0)
    first = jar.make(**ASKED, now=0.0)
    assert jar.make(**ASKED, now=0.0) == first
    assert jar.make(**ASKED, now=10 * SECRET_LIFE_S)[2:] != first[2:]
    assert rng.drawn == 2

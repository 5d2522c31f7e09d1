"""Text of a peer on its way to a person: escaped, and no longer than asked for."""

from __future__ import annotations

import pytest

from ipsecd.text import MAX_TEXT, printable


@pytest.mark.parametrize("data", [b"\0" * 5000, b"\xff" * 5000, "\u202e" * 5000, "\U000e0001" * 5000, "a" * 5000,
                                  b"a\n" * 2500])
@pytest.mark.parametrize("limit", [1, 8, 120, MAX_TEXT])
def test_escapes_count_toward_the_limit(data: bytes | str, limit: int) -> None:
    shown, _, rest = printable(data, limit).partition("...")
    assert rest
    assert len(shown) <= limit
    assert shown.isprintable()


def test_text_that_fits_is_shown_whole() -> None:
    assert printable("gw.example.net") == "gw.example.net"
    assert printable(b"a\tb") == "a\\x09b"
    assert printable("x" * MAX_TEXT) == "x" * MAX_TEXT

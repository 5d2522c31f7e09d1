"""printable(): the one way that text of a peer reaches a log, a terminal or JSON; and what a DNS name is."""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT = 256                                     # characters of peer text shown; an ID on the wire may have 1024
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})   # controls, bidi and format marks, unassigned


def printable(data: bytes | str, limit: int = MAX_TEXT) -> str:
    r"""Return peer text with control, bidi and invalid characters as \x.. escapes; the result is cut at `limit`."""
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text                                # as nearly all is, and status says a lot
    shown: list[str] = []
    room = limit
    for character in text[:limit]:
        escaped = _escape(character)
        room -= len(escaped)
        if room < 0:
            break
        shown.append(escaped)
    return "".join(shown) if len(shown) == len(text) else f"{''.join(shown)}... ({len(text)} characters)"


def dns_name(text: str) -> bool:
    """Return whether `text` is a DNS name: ASCII labels of 1 to 63 characters, 253 in all, not all digits."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()


def _escape(character: str) -> str:
    if unicodedata.category(character) in _HIDDEN:
        return f"\\x{ord(character):02x}"
    return character

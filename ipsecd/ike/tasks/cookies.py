"""Which COOKIE of a responder an initiator obeys (RFC 7296 2.6).

A responder answers each copy of a request, with another cookie as time goes by, and AUTH covers the request that was
sent last.  So once a cookie was brought, another counts only when each copy sent before may have had its own: else the
answer to the request with the first meets an initiator that has already sent a second, and AUTH fails on both ends.
"""

from __future__ import annotations

from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.notify import NotifyPayload

# Tuning
MAX_COOKIES = 5                 # strongSwan's bound; a loaded peer rotates its secret once at most


class CookieDemands:
    """The demands in one attempt."""

    __slots__ = ("_came", "_cookie", "_obeyed")

    def __init__(self) -> None:
        self._cookie: bytes | None = None
        self._came = self._obeyed = 0

    @property
    def payloads(self) -> tuple[NotifyPayload, ...]:
        """What leads the request: the cookie, once one is to be brought."""
        return (NotifyPayload(NotifyType.COOKIE, self._cookie),) if self._cookie else ()

    @property
    def endless(self) -> bool:
        """True once more were obeyed than a responder has reason to ask for."""
        return self._obeyed > MAX_COOKIES

    def obey(self, cookie: bytes, *, superseded: int) -> bool:
        """Return whether to bring this cookie from here on; `superseded`: requests sent before the present form."""
        self._came += 1
        if self._cookie is not None and self._came <= superseded:
            return False
        self._cookie = cookie
        self._obeyed += 1
        return True

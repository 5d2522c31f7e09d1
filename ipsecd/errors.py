"""The three families of exceptions, each with its answer (docs/architecture.md, "Errors").

WireError   the bytes cannot be parsed: drop and count, or INVALID_SYNTAX once the message is authenticated.
PeerError   the peer did something the protocol forbids: carries the notify to answer with.
LocalError  our own bug or a failing resource: closes the one IKE SA concerned, never the daemon.
"""

from __future__ import annotations


class IpsecdError(Exception):
    """Base of everything ipsecd raises on purpose."""


class WireError(IpsecdError):
    """Bytes that do not have the form their RFC demands."""


class PeerError(IpsecdError):
    """A message that parses but is illegal or unacceptable; `notify` is the NotifyType to send back.

    `ours` and `theirs`, for people, are what each side offered where that is what they disagree about.
    """

    def __init__(self, notify: int, detail: str, data: bytes = b"", *, ours: str = "", theirs: str = "") -> None:
        super().__init__(detail)
        self.notify = notify
        self.detail = detail
        self.data = data
        self.ours = ours
        self.theirs = theirs


class HybridDemanded(PeerError):
    """The peer lacks nothing but an additional key exchange that our policy demands (RFC 9370)."""


class ModeMismatch(PeerError):
    """The ends disagree on tunnel and transport mode (RFC 7296 1.3.1)."""


class AhBehindNat(PeerError):
    """AH is asked for where a NAT changes addresses, which AH covers (RFC 4302 3.3.3.1.1)."""


class BadIcv(IpsecdError):
    """Integrity check of an IKE message failed: drop, count, change nothing (RFC 7296 3.14)."""


class AuthenticationError(IpsecdError):
    """AUTH, identity or key material of the peer is not what the peer entry demands."""


class TokenError(AuthenticationError):
    """The token that holds our private key does not sign; nothing is said of the peer."""


class LocalError(IpsecdError):
    """A fault on this side; never caused by what a peer sends."""


class ConfigError(IpsecdError):
    """The configuration has errors; `problems` lists all of them, each a printable line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

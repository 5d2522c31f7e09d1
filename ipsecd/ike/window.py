"""Message IDs: what may be asked, what is processed, and which answer is given again (RFC 7296 2.1-2.3).

A request is looked at with `check`, opened by the caller, and only then taken with `accept`: a message without a valid
ICV changes nothing here.  A repeated request is known by the digest of its whole datagram (crypto.digest; of fragment 1
where it came in fragments, RFC 7383 2.6.1), so junk with a guessed Message ID draws no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.drops import DropReason
from ipsecd.errors import LocalError

# Specification constants
MAX_MESSAGE_ID = 0xFFFFFFFF     # RFC 7296 2.2: the SA is closed or rekeyed before the counter wraps
# Tuning
MESSAGE_ID_MARGIN = 0x10000     # requests left when the SA should be rekeyed: years of them
RESPONDER_WINDOW = 4            # requests taken out of order; we announce no window, so a peer has one in flight
ANSWER_LIFE_S = 300.0           # no peer retransmits longer: ours ends after 165 s, strongSwan's default likewise


class RequestWindow:
    """Our own requests, one outstanding at a time (RFC 7296 2.3: a window of 1 is always allowed)."""

    __slots__ = ("_next_id", "_outstanding")

    def __init__(self) -> None:
        self._next_id = 0
        self._outstanding: tuple[int, int] | None = None

    @property
    def outstanding(self) -> int | None:
        """The Message ID that waits for its response, None while there is none."""
        return self._outstanding[0] if self._outstanding else None

    @property
    def nearly_exhausted(self) -> bool:
        """True when the IKE SA should be rekeyed for want of Message IDs (RFC 7296 2.2)."""
        return self._next_id >= MAX_MESSAGE_ID - MESSAGE_ID_MARGIN

    @property
    def next_id(self) -> int:
        """The Message ID of our next request."""
        return self._next_id

    def take(self, exchange: int) -> int:
        """Return the Message ID for a new request of this exchange type; raise LocalError while one is outstanding.

        A repeated IKE_SA_INIT (COOKIE, INVALID_KE_PAYLOAD) is the same request still: it keeps ID 0 and calls nothing.
        """
        if self._outstanding is not None:
            raise LocalError(f"request {self._outstanding[0]} is still outstanding")
        if self._next_id >= MAX_MESSAGE_ID:
            raise LocalError("Message IDs are used up")
        message_id = self._next_id
        self._next_id += 1
        self._outstanding = message_id, exchange
        return message_id

    def check(self, *, message_id: int, exchange: int) -> DropReason | None:
        """Return None for a response to the outstanding request, otherwise why it is dropped (RFC 7296 2.2)."""
        if self._outstanding is None or message_id != self._outstanding[0]:
            return DropReason.IKE_UNEXPECTED_RESPONSE
        if exchange != self._outstanding[1]:
            return DropReason.IKE_UNEXPECTED_EXCHANGE
        return None

    def finish(self) -> None:
        """Close the outstanding request: its response was opened, or it was given up."""
        self._outstanding = None


@dataclass(slots=True)
class _Request:
    digest: bytes
    answer: tuple[bytes, ...] | None = None
    answered_at: float = 0.0


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A Message ID inside the window that was not taken yet: open the message, then `accept` it."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A repetition of a request already answered: send these datagrams again, do nothing else (RFC 7296 2.1)."""

    datagrams: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OtherForm:
    """Perhaps a repetition in other fragments (RFC 7383 2.6.1): if it is authentic, send these again."""

    datagrams: tuple[bytes, ...]


class ResponderWindow:
    """The peer's requests: `size` may be taken ahead of order or worked on at a time, and as many answers are kept."""

    __slots__ = ("_expected", "_requests", "_size", "_unanswered")

    def __init__(self, size: int = RESPONDER_WINDOW) -> None:
        self._size = size
        self._expected = 0
        self._requests: dict[int, _Request] = {}
        self._unanswered = 0

    @property
    def expected(self) -> int:
        """The lowest Message ID not taken yet."""
        return self._expected

    def check(self, message_id: int, digest: bytes, now: float) -> NewRequest | StoredAnswer | OtherForm | DropReason:
        """Say what to do with a request, before it is opened; changes nothing."""
        request = self._requests.get(message_id)
        if request is None:
            in_window = self._expected <= message_id < self._expected + self._size
            if not in_window or message_id >= MAX_MESSAGE_ID:
                return DropReason.IKE_MESSAGE_ID
            # A key exchange takes longer than to ask for one: what a peer may have under work is bounded here.
            return NewRequest() if self._unanswered < self._size else DropReason.IKE_BUSY
        same = request.digest == digest
        if request.answer is None:
            return DropReason.IKE_BUSY if same else DropReason.IKE_RETRANSMIT_MISMATCH
        if now - request.answered_at > ANSWER_LIFE_S:
            return DropReason.IKE_MESSAGE_ID if same else DropReason.IKE_RETRANSMIT_MISMATCH
        return StoredAnswer(request.answer) if same else OtherForm(request.answer)

    def accept(self, message_id: int, digest: bytes) -> None:
        """Take an opened request for which `check` said NewRequest; it is never processed again.

        Forgets answers that the window has left behind: with `size` further requests taken, the peer has them.
        """
        assert message_id not in self._requests
        assert self._expected <= message_id < self._expected + self._size
        self._requests[message_id] = _Request(digest)
        self._unanswered += 1
        while self._expected in self._requests:
            self._expected += 1
        for old in [kept for kept, r in self._requests.items() if kept < self._expected - self._size and r.answer]:
            del self._requests[old]

    def answer(self, message_id: int, datagrams: tuple[bytes, ...], now: float) -> None:
        """Keep the response to a request that was taken, for repetitions of it; there is one for each.

        An answer that comes after `size` further requests is not kept: nobody can ask for it again.
        """
        self._unanswered -= 1
        if message_id < self._expected - self._size:
            del self._requests[message_id]
        else:
            self._requests[message_id].answer, self._requests[message_id].answered_at = datagrams, now

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.errors import LocalError
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.crypto.digest import request_digest
from ipsecd.ike.window import (
    ANSWER_LIFE_S,
    MAX_MESSAGE_ID,
    MESSAGE_ID_MARGIN,
    NewRequest,
    OtherForm,
    RequestWindow,
    ResponderWindow,
    StoredAnswer,
)

ONE, OTHER = request_digest(b"one"), request_digest(b"other")
AUTH, INFO = ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL


def test_request_is_processed_once_and_its_repetition_gets_the_stored_answer() -> None:
    # ML-01
    window = ResponderWindow(1)
    assert window.check(0, ONE, 0.0) == NewRequest()
    window.accept(0, ONE)
    assert window.expected == 1
    assert window.check(0, ONE, 0.0) == DropReason.IKE_BUSY
    window.answer(0, (b"a", b"b"), 1.0)
    for _ in range(3):
        assert window.check(0, ONE, 2.0) == StoredAnswer((b"a", b"b"))


def test_repeated_message_id_with_other_bytes_is_looked_at_only_where_an_answer_stands() -> None:
    # ML-01
    window = ResponderWindow(1)
    window.accept(0, ONE)
    assert window.check(0, OTHER, 0.0) == DropReason.IKE_RETRANSMIT_MISMATCH
    window.answer(0, (b"answer",), 0.0)
    assert window.check(0, OTHER, 1.0) == OtherForm((b"answer",))
    assert window.check(0, OTHER, ANSWER_LIFE_S + 1) == DropReason.IKE_RETRANSMIT_MISMATCH


@pytest.mark.parametrize("size", [1, 4])
def test_message_id_outside_the_window_is_dropped(size: int) -> None:
    # ML-02
    window = answered(size, upto=10)
    for message_id in (10 + size, 9 - size, 0, MAX_MESSAGE_ID):
        assert window.check(message_id, ONE, 0.0) == DropReason.IKE_MESSAGE_ID
    assert window.check(10, ONE, 0.0) == NewRequest()


def test_requests_within_the_window_are_taken_out_of_order() -> None:
    # ML-04
    window = ResponderWindow(4)
    for message_id in (3, 1, 0):
        assert window.check(message_id, ONE, 0.0) == NewRequest()
        window.accept(message_id, ONE)
    assert window.expected == 2
    assert window.check(5, ONE, 0.0) == NewRequest()
    assert window.check(6, ONE, 0.0) == DropReason.IKE_MESSAGE_ID
    window.accept(2, ONE)
    assert window.expected == 4


def test_check_changes_nothing() -> None:
    # open, then commit: a forged request must not take a Message ID
    window = ResponderWindow(1)
    assert window.check(0, OTHER, 0.0) == NewRequest()
    assert window.check(0, ONE, 0.0) == NewRequest()
    assert window.expected == 0


def test_responder_keeps_as_many_answers_as_its_window() -> None:
    # ML-04
    window = answered(4, upto=100)
    assert len(window._requests) == 4
    assert [isinstance(window.check(i, ONE, 0.0), StoredAnswer) for i in range(94, 100)] == [False] * 2 + [True] * 4


def test_answer_to_a_forgotten_request_is_not_kept() -> None:
    window = ResponderWindow(2)
    window.accept(0, ONE)
    for message_id in range(1, 4):
        window.accept(message_id, ONE)
        window.answer(message_id, (b"answer",), 0.0)
    assert window.check(0, ONE, 0.0) == DropReason.IKE_BUSY
    window.answer(0, (b"late",), 0.0)
    assert window.check(0, ONE, 0.0) == DropReason.IKE_MESSAGE_ID


def test_no_more_requests_are_worked_on_than_the_window_has() -> None:
    window = ResponderWindow(4)
    for message_id in range(4):
        window.accept(message_id, ONE)
    assert window.check(4, ONE, 0.0) == DropReason.IKE_BUSY
    window.answer(2, (b"answer",), 0.0)
    assert window.check(4, ONE, 0.0) == NewRequest()


def test_old_answer_is_forgotten_and_its_request_not_processed_again() -> None:
    # ML-07
    window = answered(1, upto=1)
    assert isinstance(window.check(0, ONE, ANSWER_LIFE_S), StoredAnswer)
    assert window.check(0, ONE, ANSWER_LIFE_S + 1) == DropReason.IKE_MESSAGE_ID


def test_one_request_is_outstanding_at_a_time() -> None:
    # ML-04
    window = RequestWindow()
    assert window.take(AUTH) == 0
    assert (window.outstanding, window._next_id) == (0, 1)
    with pytest.raises(LocalError):
        window.take(AUTH)
    window.finish()
    assert window.outstanding is None
    assert window.take(INFO) == 1


def test_response_to_nothing_we_asked_is_dropped() -> None:
    # ML-03
    window = RequestWindow()
    assert window.check(message_id=0, exchange=AUTH) == DropReason.IKE_UNEXPECTED_RESPONSE
    window.take(AUTH)
    assert window.check(message_id=1, exchange=AUTH) == DropReason.IKE_UNEXPECTED_RESPONSE
    assert window.check(message_id=0, exchange=INFO) == DropReason.IKE_UNEXPECTED_EXCHANGE
    assert window.check(message_id=0, exchange=AUTH) is None
    window.finish()
    assert window.check(message_id=0, exchange=AUTH) == DropReason.IKE_UNEXPECTED_RESPONSE


def test_message_ids_never_wrap() -> None:
    # ML-08
    window = RequestWindow()
    assert not window.nearly_exhausted
    window._next_id = MAX_MESSAGE_ID - MESSAGE_ID_MARGIN
    assert window.nearly_exhausted
    window._next_id = MAX_MESSAGE_ID
    with pytest.raises(LocalError, match="used up"):
        window.take(INFO)


def answered(size: int, *, upto: int) -> ResponderWindow:
    window = ResponderWindow(size)
    for message_id in range(upto):
        window.accept(message_id, ONE)
        window.answer(message_id, (b"answer",), 0.0)
    return window

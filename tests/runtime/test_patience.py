"""A token that hangs: who waits for it, and for how long."""

from __future__ import annotations

import threading

import pytest

from ipsecd.errors import TokenError
from ipsecd.runtime.patience import Patience


def test_call_returns_or_raises_what_the_library_does() -> None:
    patience = Patience()

    def broken() -> int:
        raise TimeoutError("of the library's own")

    assert patience.call(lambda: 7) == 7
    with pytest.raises(TimeoutError, match="own"):
        patience.call(broken)
    assert patience.call(lambda: 8) == 8


def test_library_that_hangs_is_waited_for_once_and_serves_again_when_it_comes_back() -> None:
    patience, hangs, back = Patience(answer_s=0.05), threading.Event(), threading.Event()

    def stuck() -> None:
        hangs.wait()
        back.set()

    with pytest.raises(TokenError, match="did not answer within"):
        patience.call(stuck)
    for _ in range(1000):                        # at once: each would take 50 ms
        with pytest.raises(TokenError, match="still does not answer"):
            patience.call(lambda: None)
    hangs.set()
    assert back.wait(10)
    for thread in threading.enumerate():
        if thread.name == "token":
            thread.join(10)
    assert patience.call(lambda: 7) == 7


def test_calls_are_made_one_at_a_time() -> None:
    patience, inside, most = Patience(), [0], [0]

    def work() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        inside[0] -= 1

    callers = [threading.Thread(target=lambda: [patience.call(work) for _ in range(50)]) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert most == [1]

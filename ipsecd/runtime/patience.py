"""Calls of a library that may hang, as the driver of a token does whose card is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ipsecd.errors import TokenError

T = TypeVar("T")

ANSWER_S = 5.0              # a card signs within a second, and a peer waits for IKE_AUTH half a minute


class Patience:
    """Calls one at a time, each in a thread of its own, for which nobody waits longer than `answer_s`.

    A call that does not come back keeps its place; until it does, those after it fail at once.  So a token that hangs
    takes a worker for that long, once, and no peer but its own has to wait.
    """

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._place = threading.Lock()
        self._late = False

    def call(self, work: Callable[[], T]) -> T:
        """Return or raise what `work` does; raise TokenError where it takes too long."""
        if self._late or not self._place.acquire(timeout=self._answer_s):
            raise TokenError("the token still does not answer")
        answer: Future[T] = Future()
        threading.Thread(target=self._run, args=(work, answer), name="token", daemon=True).start()
        try:
            return answer.result(self._answer_s)
        except TimeoutError:
            self._late = True
            if answer.done():            # just now, or it is what `work` raised
                self._late = False
                return answer.result()
            raise TokenError(f"the token did not answer within {self._answer_s:g} s") from None

    def _run(self, work: Callable[[], T], answer: Future[T]) -> None:
        try:
            answer.set_result(work())
        except Exception as error:       # goes to whoever waits
            answer.set_exception(error)
        finally:
            self._late = False
            self._place.release()

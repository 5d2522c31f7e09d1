"""Steps: the form of everything that may have to wait for slow work, and the runner that parks it.

A step function is a generator: it yields a `Job` where it needs a key exchange computed, is resumed with the value, and
returns its result.  So a task reads from top to bottom, and the message it handles waits inside it.  What was true
before a job may be false after it: tasks look again at what they rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

from ipsecd.effects import FetchRevocation, RevocationQuery, Work

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be computed off the loop."""

    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Something to be fetched from outside; its value is a tuple of bytes or None, one for each query."""

    queries: tuple[RevocationQuery, ...]
    at_hand: bool = False           # only what is there already


class Resumed(NamedTuple):
    """What a job came to, and when."""

    value: object
    now: float


Wanted = Job | Lookup
Steps = Generator[Wanted, Resumed, _T]


def effect_of(wanted: Wanted, number: int) -> Work | FetchRevocation:
    """Return what asks the edge for it."""
    return Work(number, wanted.run) if isinstance(wanted, Job) else FetchRevocation(
        number, wanted.queries, wanted.at_hand)


class Worked(NamedTuple, Generic[_T]):
    """The typed value of a job, and the time after it."""

    value: _T
    now: float


def work(run: Callable[[], _T]) -> Steps[Worked[_T]]:
    """Have `run` computed off the loop; what it raises is raised here."""
    resumed = yield Job(run)
    return Worked(cast("_T", resumed.value), resumed.now)


def look_up(queries: tuple[RevocationQuery, ...], *, at_hand: bool = False) -> Steps[Worked[tuple[bytes | None, ...]]]:
    """Have evidence fetched, or with `at_hand` take what was fetched before; what could not be had is None."""
    resumed = yield Lookup(queries, at_hand)
    return Worked(cast("tuple[bytes | None, ...]", resumed.value), resumed.now)


@dataclass(frozen=True, slots=True)
class _Parked:
    steps: Steps[Any]
    done: Callable[[Any, float], None]
    failed: Callable[[Exception, float], None]


class StepRunner:
    """Runs steps to their end or to their next job; `take_jobs` hands the jobs up."""

    __slots__ = ("_jobs", "_next_token", "_parked")

    def __init__(self) -> None:
        self._parked: dict[int, _Parked] = {}
        self._jobs: list[tuple[int, Wanted]] = []
        self._next_token = 0

    @property
    def busy(self) -> bool:
        """True while something is parked."""
        return bool(self._parked)

    def start(self, steps: Steps[_T], *, done: Callable[[_T, float], None],
              failed: Callable[[Exception, float], None], now: float) -> None:
        """Run `steps`; call `done` with its result or `failed` with what it raised, at once or after its jobs."""
        self._run(_Parked(steps, done, failed), lambda: next(steps), now)

    def resume(self, token: int, value: object, now: float) -> None:
        """Go on with the value of a job, or with the exception that it raised; unknown tokens do nothing."""
        parked = self._parked.pop(token, None)
        if parked is None:
            return
        steps = parked.steps
        if isinstance(value, Exception):
            self._run(parked, lambda: steps.throw(value), now)
        else:
            self._run(parked, lambda: steps.send(Resumed(value, now)), now)

    def abandon(self) -> None:
        """Forget everything parked: the values of its jobs will be unknown."""
        for parked in self._parked.values():
            parked.steps.close()
        self._parked.clear()
        self._jobs.clear()

    def take_jobs(self) -> list[tuple[int, Wanted]]:
        """Return the jobs to be done, each with the token to resume with."""
        jobs, self._jobs = self._jobs, []
        return jobs

    @staticmethod
    def _finish(parked: _Parked, value: object, now: float) -> None:
        try:
            parked.done(value, now)
        except Exception as error:
            parked.failed(error, now)

    def _run(self, parked: _Parked, advance: Callable[[], Wanted], now: float) -> None:
        try:
            job = advance()
        except StopIteration as stop:
            self._finish(parked, stop.value, now)
        except Exception as error:
            parked.failed(error, now)
        else:
            self._next_token += 1
            self._parked[self._next_token] = parked
            self._jobs.append((self._next_token, job))

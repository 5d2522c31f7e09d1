"""The log: one event, one line.  JSON to the journal or a file, coloured text on a terminal.

Event names are static and values are fields; nothing is logged for a packet.  Every text is escaped on its way out,
whatever the event did.  Warnings, which peers can cause, are rate-limited for each event name: those left out are
counted and the count is logged, so that a flood neither fills a disk nor hides another kind of warning.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO, cast

import structlog

from ipsecd.control.stream import LEVELS, escaped
from ipsecd.events import Event, Level
from ipsecd.rate import Bucket

WARNINGS_PER_S = 20.0
WARNING_BURST = 100.0
SUMMARY_S = 10.0                    # at most one count of suppressed warnings in this time

_Fields = MutableMapping[str, Any]
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}      # sd-daemon(3)


class EventLog:
    """Writes events to a stream; a stream that is gone loses lines (`lost`), never the daemon."""

    def __init__(self, stream: TextIO, *, level: Level = Level.INFO, form: str = "auto",
                 now: Callable[[], float] = time.monotonic) -> None:
        self.level = level                       # a reload may change it
        self.lost = 0
        self._now = now
        self._log = _logger(stream, form)
        self._limits: dict[str, Bucket] = {}
        self._suppressed: dict[str, int] = {}
        self._summary_at = 0.0

    def write(self, event: Event) -> None:
        """Write one event, unless its level or the rate limit says otherwise."""
        if LEVELS[event.level] < LEVELS[self.level]:
            return
        now = self._now()
        if self._suppressed and now >= self._summary_at:
            self.flush()
        if event.level is Level.WARNING and not self._allowed(event.name, now):
            if not self._suppressed:
                self._summary_at = now + SUMMARY_S
            self._suppressed[event.name] = self._suppressed.get(event.name, 0) + 1
            return
        self._emit(event.level, event.name, escaped(event.as_dict()))

    def flush(self) -> None:
        """Write the count of suppressed warnings; `run` calls it at times, and who ends the daemon once more."""
        counts, self._suppressed = self._suppressed, {}
        if counts:
            self._emit(Level.WARNING, "warnings_suppressed", dict(counts))

    async def run(self, every_s: float = SUMMARY_S) -> None:
        """Write the counts though nothing else is to be written, for ever; a task of the daemon."""
        while True:
            await asyncio.sleep(every_s)
            self.flush()

    def _allowed(self, name: str, now: float) -> bool:
        if name not in self._limits:
            self._limits[name] = Bucket(per_s=WARNINGS_PER_S, burst=WARNING_BURST, now=now)
        return self._limits[name].take(now)

    def _emit(self, level: Level, name: str, fields: dict[str, object]) -> None:
        try:
            getattr(self._log, level.value)(name, **fields)
        except OSError:
            self.lost += 1


def is_journal(stream: TextIO) -> bool:
    """Return whether `stream` goes straight to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):                # a closed stream, or one without a descriptor
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _logger(stream: TextIO, form: str) -> Any:
    processors: list[Any] = [structlog.processors.add_log_level,
                             structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")]
    if form == "json" or (form == "auto" and not stream.isatty()):
        render: Any = structlog.processors.JSONRenderer(separators=(",", ":"))
    else:
        processors.append(_flatten_failure)
        # The default formatter of exceptions shows local variables, which may be keys.
        render = structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="time", sort_keys=False,
                                               exception_formatter=structlog.dev.plain_traceback)
    processors.append(_Prioritized(render) if is_journal(stream) else render)
    return structlog.wrap_logger(structlog.WriteLogger(stream), processors=processors,
                                 wrapper_class=structlog.make_filtering_bound_logger(0))


class _Prioritized:
    """Puts the journal's priority in front of a line (sd-daemon(3)); the journal takes it off again."""

    def __init__(self, render: Any) -> None:
        self._render = render

    def __call__(self, logger: object, method: str, fields: _Fields) -> str:
        priority = _PRIORITIES[str(fields["level"])]
        return f"<{priority}>{self._render(logger, method, fields)}"


def _flatten_failure(_logger: object, _method: str, fields: _Fields) -> _Fields:
    """On a terminal a failure is its parts that say something; the summary contains the detail."""
    failure = fields.pop("failure", None)
    if isinstance(failure, dict):
        parts = cast("dict[str, str]", failure)
        fields.update({k: v for k, v in parts.items() if v and k != "detail"})
    return fields

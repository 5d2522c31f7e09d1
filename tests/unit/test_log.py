"""Log lines: one an event, escaped, without keys, and never a flood."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.events import Event, Hint, IkeAttemptFailed, IkeMessage, Level, LocalFault, Notice
from ipsecd.log import SUMMARY_S, WARNING_BURST, EventLog
from ipsecd.secret import Secret

HOSTILE = 'x"\n\x00\x1b]0;owned\x07\u202e\u2028'
FAILED = IkeAttemptFailed("hq", "initiator", "a -> b", Failure(Cause.WRONG_IDENTITY, theirs=HOSTILE))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Logged:
    """A log into memory."""

    form: str = "json"
    level: Level = Level.INFO
    clock: Clock = field(default_factory=Clock)
    stream: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.log = EventLog(self.stream, level=self.level, form=self.form, now=self.clock)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_event_is_one_json_line_with_its_fields() -> None:
    logged = Logged()

    logged.log.write(Notice("started", "generation 1"))

    (line,) = logged.lines()
    assert {k: v for k, v in line.items() if k != "time"} == {
        "event": "notice", "level": "info", "what": "started", "detail": "generation 1"}


@pytest.mark.parametrize("form", ["json", "text"])
def test_text_of_a_peer_comes_out_escaped_on_one_line(form: str) -> None:
    logged = Logged(form)

    logged.log.write(FAILED)

    written = logged.stream.getvalue()
    assert written.count("\n") == 1
    assert all(c == "\n" or c.isprintable() for c in written)
    assert "x1b]0;owned" in written


@pytest.mark.parametrize("form", ["json", "text"])
def test_secret_is_never_written(form: str) -> None:
    @dataclass(frozen=True, slots=True)
    class Careless(Event):
        key: object

    logged = Logged(form)
    logged.log.write(Careless(Secret(b"swordfish")))
    logged.log.write(Careless((Secret(b"swordfish"),)))

    assert "swordfish" not in logged.stream.getvalue() and b"swordfish".hex() not in logged.stream.getvalue()
    assert "Secret 9 bytes" in logged.stream.getvalue()


def test_level_hides_what_is_below_and_may_change() -> None:
    logged = Logged()
    message = IkeMessage("in", "hq", "IKE_AUTH", False, 1, ("IDi", "AUTH"), "path")

    logged.log.write(message)
    logged.log.level = Level.DEBUG
    logged.log.write(message)

    assert [line["payloads"] for line in logged.lines()] == [["IDi", "AUTH"]]


def test_flood_of_warnings_is_cut_and_counted() -> None:
    logged = Logged()

    for _ in range(1000):
        logged.log.write(FAILED)
    logged.clock.now = SUMMARY_S
    logged.log.write(Notice("later", ""))

    lines = logged.lines()
    assert sum(line["event"] == "ike_attempt_failed" for line in lines) == WARNING_BURST
    assert lines[-2]["event"] == "warnings_suppressed"
    assert lines[-2]["ike_attempt_failed"] == 1000 - WARNING_BURST


def test_flood_of_one_warning_hides_no_other_and_no_error() -> None:
    logged = Logged()

    for _ in range(1000):
        logged.log.write(FAILED)
    logged.log.write(Hint("hq", "path", Failure(Cause.PEER_ERROR)))
    logged.log.write(LocalFault("here", "why"))

    assert [line["event"] for line in logged.lines()[-2:]] == ["hint", "local_fault"]


def test_flush_writes_the_count_once() -> None:
    logged = Logged()
    for _ in range(200):
        logged.log.write(FAILED)

    logged.log.flush()
    logged.log.flush()

    assert sum(line["event"] == "warnings_suppressed" for line in logged.lines()) == 1


def test_text_shows_cause_and_hint_of_a_failure() -> None:
    logged = Logged("text")

    logged.log.write(FAILED)

    assert "the peer has another identity" in logged.stream.getvalue()
    assert "set peers.P.identity" in logged.stream.getvalue()


def test_lost_stream_loses_lines_and_not_the_daemon() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    log = EventLog(Gone(), form="json")
    log.write(Notice("a", "b"))

    assert log.lost == 1


def test_line_for_the_journal_carries_its_priority(tmp_path: Path) -> None:
    before = os.environ.get("JOURNAL_STREAM")
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        try:
            EventLog(stream).write(LocalFault("here", "why"))
        finally:
            os.environ.pop("JOURNAL_STREAM")
            if before is not None:
                os.environ["JOURNAL_STREAM"] = before
        stream.seek(0)
        assert stream.read().startswith('<3>{"')

"""The event hub: bounded, ordered, honest about what it dropped."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, fields

from ipsecd import events
from ipsecd.causes import Cause, Failure
from ipsecd.control.stream import HISTORY, QUEUE, EventHub, event_line
from ipsecd.events import Event, IkeAttemptFailed, IkeMessage, Level, Notice
from ipsecd.secret import Secret

MESSAGE = IkeMessage("in", "hq", "IKE_AUTH", False, 1, ("IDi", "AUTH"), "path")


def test_slow_subscriber_loses_the_oldest_and_learns_how_many() -> None:
    hub = EventHub()

    async def body() -> list[dict[str, object]]:
        with hub.subscribe(Level.INFO) as subscription:
            for n in range(QUEUE + 5):
                hub.publish(Notice("n", str(n)), 0.0)
            return [json.loads(line) for line in (await subscription.take()).splitlines()]

    lines = asyncio.run(body())
    assert (lines[0]["event"], lines[0]["count"]) == ("events_dropped", 5)
    assert (lines[1]["detail"], lines[-1]["detail"], len(lines)) == ("5", str(QUEUE + 4), QUEUE + 1)


def test_subscription_ends_with_its_block() -> None:
    hub = EventHub()

    async def body() -> int:
        with hub.subscribe(Level.INFO):
            pass
        return len(hub._subscribers)

    assert asyncio.run(body()) == 0


def test_history_is_bounded_and_without_debug() -> None:
    hub = EventHub()
    for n in range(HISTORY + 10):
        hub.publish(Notice("n", str(n)), 0.0)
        hub.publish(MESSAGE, 0.0)

    assert len(hub.history(Level.DEBUG).splitlines()) == HISTORY
    assert hub.history(Level.WARNING) == b""


def test_event_line_escapes_what_an_event_forgot_to() -> None:
    failure = Failure(Cause.UNKNOWN_IDENTITY, detail="\x1b[2J\u202e")

    line = event_line(IkeAttemptFailed("hq", "responder", "p", failure), 0.0)

    assert line.isascii() and line.count(b"\n") == 1
    assert json.loads(line)["failure"]["detail"] == "\\x1b[2J\\x202e"


def test_event_line_never_shows_a_secret() -> None:
    @dataclass(frozen=True, slots=True)
    class Careless(Event):
        key: object

    assert b"swordfish" not in event_line(Careless(Secret(b"swordfish")), 0.0)
    assert b"<Secret 9 bytes>" in event_line(Careless((Secret(b"swordfish"),)), 0.0)


def test_no_event_has_a_field_that_the_envelope_uses() -> None:
    kinds = [k for k in vars(events).values() if isinstance(k, type) and issubclass(k, Event)]

    assert not {f.name for kind in kinds for f in fields(kind)} & {"version", "time", "event", "level", "count"}

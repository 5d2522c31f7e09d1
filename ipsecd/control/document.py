"""docs/control-api.md from schema.py: `python -m ipsecd.control.document > docs/control-api.md`; a test holds it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ipsecd.control import schema as s

_INTRODUCTION = """\
# The control socket, version 1

Generated from ipsecd/control/schema.py; do not edit.

`ipsecctl` speaks HTTP/1.1 with JSON bodies over a unix socket (`control.socket`, by default
`/run/ipsecd/control.sock`, mode 0660), and so can anything else:

    curl --unix-socket /run/ipsecd/control.sock http://localhost/v1/status

`--json` prints these answers as they are. Version 1 only grows: fields are added, never renamed, retyped or removed;
a client ignores what it does not know. All text is escaped: control and bidi characters of peers appear as `\\x..`.
Answers are ASCII. No answer holds a key.

## Who may do what

Whoever can open the socket (root, the daemon's user, its group) may read: `status`, `doctor`, `events`, `policy`,
`plan`. What changes anything needs root, the daemon's own user, or a name in `control.admins`, as SO_PEERCRED shows it,
and is logged as `control_request` or `control_refused`.

## Limits

16 connections at once, 12 of them for those who only read; a request has at most 64 KiB (`plan` 4 MiB of text), is
nested at most 32 deep, and arrives within 30 s, as an idle connection lives 30 s. Duplicate keys, unknown fields and
NaN are errors. A client that follows events too slowly loses the oldest, and is told how many by an event
`events_dropped` with `count`; one that takes nothing for 30 s is closed.

## Requests

| request | body | answer | who |
|---|---|---|---|
| GET /v1/status, GET /v1/status?peer=NAME | | StatusAnswer | all |
| GET /v1/doctor | | DoctorAnswer | all |
| GET /v1/events?follow=0 or 1&level=LEVEL | | lines of EventLine: the last 512, then new ones | all |
| POST /v1/policy | PolicyQuery | PolicyAnswer | all |
| POST /v1/plan | PlanRequest | PlanAnswer | all |
| POST /v1/up, /v1/down, /v1/rekey | Target | CommandAnswer | change |
| POST /v1/reload | ReloadRequest | ReloadAnswer | change |

Status 200 means that the daemon did what was asked, and `ok` in the answer whether that worked. Anything else
comes with an ErrorAnswer: 400 `bad_request`, 403 `forbidden`, 404 `not_found`, 408 `timeout`, 413 `too_large`, 500
`local_error`; 503 without a body means too many connections.

## Exit codes

| code | of | meaning |
|---|---|---|
| 0 | both | done |
| 1 | both | refused or failed: errors in the file, a tunnel not up, a failed check; `ipsecd` could not start |
| 2 | both | wrong usage |
| 3 | ipsecctl | no daemon answers on the socket |
| 4 | ipsecctl | only root or a name in `control.admins` may do this |
| 130 | ipsecctl | interrupted while it waited; the command itself goes on |
| 78 | ipsecd | the configuration has errors (EX_CONFIG); `--check` has listed them all, warnings alone give 0 |

`ipsecd --check FILE --json` prints `version`, `ok`, `problems` and `warnings`; `ipsecctl flush --json` prints
`version`, `ok`, `interface` and `state`.
"""

_ANSWERS: tuple[type[BaseModel], ...] = (
    s.StatusAnswer, s.GatewayView, s.LoopLag, s.GuardView, s.ConfigView, s.PeerView, s.IkeView, s.ChildView, s.SaView,
    s.Traffic, s.Wait, s.Error, s.Target, s.CommandAnswer, s.Outcome, s.PlanRequest, s.PlanAnswer, s.ReloadRequest,
    s.ReloadAnswer, s.PolicyQuery, s.PolicyAnswer, s.EntryVerdict, s.DoctorAnswer, s.Check, s.EventLine, s.ErrorAnswer)


def document() -> str:
    """Return the whole document."""
    return "\n".join([_INTRODUCTION, "## Models", "", *(line for model in _ANSWERS for line in _model(model))])


def _model(model: type[BaseModel]) -> Iterator[str]:
    yield f"### {model.__name__}"
    yield ""
    yield re.sub(r"\s+", " ", model.__doc__ or "").strip()
    yield ""
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for name, field in model.model_fields.items():
        default = " (optional)" if issubclass(model, s.Request) and not field.is_required() else ""
        yield f"| {name} | {_type(field)}{default} | {field.description or ''} |"
    yield ""


def _type(field: FieldInfo) -> str:
    text = re.sub(r"^<class '(.*)'>$", r"\1", str(field.annotation))
    text = re.sub(r"typing\.Annotated\[(\w+), [^\]]*\]", r"\1", text)
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "`").replace(", ", " "), text)
    text = re.sub(r"(\w+\.)+(?=\w)", "", text).replace(" | None", ", null")
    return text.replace("|", "or")


if __name__ == "__main__":
    sys.stdout.write(document())

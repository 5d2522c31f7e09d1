"""The other answers of ipsecctl, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from rich.text import Text

from ipsecd.cli.status_view import error_lines
from ipsecd.control.schema import CommandAnswer, DoctorAnswer, PlanAnswer, PolicyAnswer

_LEVEL_STYLES = {"warning": "yellow", "error": "bold red", "debug": "dim"}
_CHECK_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}
_HEAD = ("version", "time", "event", "level")


def command_view(answer: CommandAnswer) -> Iterator[Text]:
    """Yield a line for each child, and why where it failed."""
    for outcome in answer.outcomes:
        name = outcome.peer if outcome.child is None else f"{outcome.peer}/{outcome.child}"
        yield Text(f"{name}: {outcome.result}", style="red" if outcome.failure else "")
        if outcome.failure:
            yield from error_lines(outcome.failure, "  ")


def plan_view(answer: PlanAnswer, *, nothing: str) -> Iterator[Text]:
    """Yield errors, warnings and changes; `nothing` where there are none."""
    for problem in answer.problems:
        yield Text(problem, style="red")
    for warning in answer.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    for change in answer.changes:
        yield Text(change)
    if answer.ok and not answer.changes:
        yield Text(nothing, style="dim")


def policy_view(answer: PolicyAnswer) -> Iterator[Text]:
    """Yield each entry with its verdict, then the decision."""
    if answer.skipped:
        yield Text(f"{answer.skipped} entries before these did not match", style="dim")
    for verdict in answer.verdicts:
        yield Text(f"{verdict.number:>4} {verdict.name} ({verdict.action}): {verdict.why}",
                   style="" if verdict.matched else "dim")
    by = f"entry {answer.entry} {answer.name}" if answer.entry is not None else "policies_default"
    through = f" by {answer.peer}/{answer.child}" if answer.child else ""
    carrier = f", SPI {answer.spi}" if answer.spi else ""
    yield Text(f"{answer.action}{through}{carrier} ({by})", style="bold")
    if answer.note:
        yield Text(answer.note, style="yellow")


def doctor_view(answer: DoctorAnswer) -> Iterator[Text]:
    """Yield a line for each check, and what to do where it is not well."""
    for check in answer.checks:
        yield Text.assemble((f"{check.result:<8}", _CHECK_STYLES[check.result]), f"{check.name}: {check.detail}")
        if check.hint and check.result != "ok":
            yield Text(f"{'':8}  {check.hint}", style="dim")


def event_view(event: dict[str, Any]) -> Text:
    """Return an event as one line; a failure shows its parts that say something."""
    fields = {k: v for k, v in event.items() if k not in _HEAD and v not in ("", None)}
    failure: dict[str, str] = fields.pop("failure", {})
    fields |= {k: v for k, v in failure.items() if v and k != "detail"}
    text = " ".join(f"{k}={_value(v)}" for k, v in fields.items())
    level = str(event.get("level", "info"))
    return Text.assemble((f"{event.get('time', '')} ", "dim"),
                         (f"{event.get('event')} ", _LEVEL_STYLES.get(level, "bold")), text)


def _value(value: Any) -> str:
    text = ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
    return f'"{text}"' if " " in text else text

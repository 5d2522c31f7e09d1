"""Where in the files stands what a failure asks to change: its hint names keys, the tree knows their lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeVar

from ipsecd.causes import Failure
from ipsecd.config.nodes import Location, Node, find
from ipsecd.events import Event

_KEY = re.compile(r"(?:peers\.P|gateway)(?:\.[A-Za-z_]+)*")
_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True, slots=True)
class Places:
    """The tree of a configuration that was accepted."""

    root: Node

    def of(self, failure: Failure, peer: str, child: str) -> str:
        """Return "file:line key" of the key to change; of the nearest that is written, where it is left to a default.

        Empty where the cause asks for no key.
        """
        named = _KEY.search(failure.hint)
        if named is None:
            return ""
        wanted: Location = tuple({"P": peer, "C": child}.get(step, step) for step in named[0].split("."))
        general = ("defaults", *(s for s in ("child" if s == "children" else s for s in wanted[2:]) if s != child))
        for location in (wanted, general):
            _, mark, taken = find(self.root, location)
            if taken == len(location) > 1:
                return f"{mark.file}:{mark.line} {'.'.join(map(str, location))}"
        _, mark, taken = find(self.root, wanted)
        return f"{mark.file}:{mark.line} {'.'.join(map(str, wanted[:taken]))}" if taken else ""

    def placed(self, event: _E) -> _E:
        """Return an event whose failure says where."""
        failure: object = getattr(event, "failure", None)
        if not isinstance(failure, Failure):
            return event
        where = self.of(failure, getattr(event, "peer", ""), getattr(event, "child", ""))
        return replace(event, failure=replace(failure, where=where))  # type: ignore[call-arg]

"""The tree that load.py builds: containers and text that know where they were written."""

from __future__ import annotations

from typing import NamedTuple, Self

from ipsecd.text import printable

Location = tuple[str | int, ...]
SHOWN = 60                          # characters of a value that a message repeats


class Mark(NamedTuple):
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Text(str):
    """A scalar as written.  `plain` is False where it was quoted."""

    __slots__ = ("mark", "plain")
    mark: Mark
    plain: bool

    def __new__(cls, value: str, mark: Mark, *, plain: bool = True) -> Self:
        """Make the text `value`, written at `mark`."""
        text = super().__new__(cls, value)
        text.mark = mark
        text.plain = plain
        return text

    def describe(self) -> str:
        """Return the value for "found ..."."""
        return repr(printable(self, SHOWN)) if self else "nothing"


class Mapping(dict[str, "Node"]):
    """A mapping in the order written, with the place of each key."""

    __slots__ = ("key_marks", "mark")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.key_marks: dict[str, Mark] = {}

    def without(self, keys: frozenset[str]) -> Mapping:
        """Return the mapping less some keys."""
        rest = Mapping(self.mark)
        rest.key_marks = self.key_marks
        rest.update({key: node for key, node in self.items() if key not in keys})
        return rest

    def describe(self) -> str:
        """Return the value for "found ..."."""
        return "a mapping"


class Sequence(list["Node"]):
    """A list."""

    __slots__ = ("mark",)

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark

    def describe(self) -> str:
        """Return the value for "found ..."."""
        return "a list"


Node = Mapping | Sequence | Text


def find(root: Node, location: Location) -> tuple[Node, Mark, int]:
    """Walk as far along `location` as the tree goes.

    Returns the node reached, the mark to report, and how many steps were taken.  The mark is the key's for a
    collection, the value's own for a scalar or an item of a list.
    """
    node, mark = root, root.mark
    for taken, step in enumerate(location):
        if isinstance(node, Mapping) and step in node:
            key_mark = node.key_marks[str(step)]
            node = node[str(step)]
            mark = node.mark if isinstance(node, Text) else key_mark
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node):
            node = node[step]
            mark = node.mark
        else:
            return node, mark, taken
    return node, mark, len(location)


def path_text(location: Location) -> str:
    """Return "peers.hq.children.office.remote[1]"; names that hold a dot are quoted."""
    parts: list[str] = []
    for step in location:
        if isinstance(step, int):
            parts.append(f"[{step}]")
            continue
        shown = printable(step, SHOWN)
        parts.append(("." if parts else "") + (f'"{shown}"' if "." in step else shown))
    return "".join(parts)

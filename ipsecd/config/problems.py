"""Problems: everything wrong with a configuration, collected, so that the operator sees all of it at once."""

from __future__ import annotations

from ipsecd.config.nodes import Location, Mapping, Mark, Node, Text, find, path_text
from ipsecd.errors import ConfigError

MAX_PROBLEMS = 200                  # printed
MAX_COLLECTED = 2000                # then reading stops: a file of 4 MiB could hold a million, at 0.1 ms each


class Problems:
    """Errors and warnings with their places.  Values under `auth` never appear in a message: they may be keys."""

    def __init__(self, root: Node | None = None) -> None:
        self.root = root
        self._settled: set[Mark] = set()
        self._errors: list[tuple[Mark, str]] = []
        self._warnings: list[tuple[Mark, str]] = []

    def at(self, mark: Mark, location: Location, message: str) -> None:
        """Add an error at a known place."""
        if mark not in self._settled:
            self._errors.append((mark, _line(mark, location, message)))

    def settle(self, mark: Mark) -> None:
        """Take no more errors at `mark`: what stands there is not what the operator meant."""
        self._settled.add(mark)

    def file(self, filename: str, message: str) -> None:
        """Add an error that concerns a file as a whole."""
        self._errors.append((Mark(filename, 0, 0), f"{filename}: {message}"))

    def expected(self, location: Location, expected: str) -> None:
        """Add "found X; expected Y", where X is what stands at `location`."""
        node, mark, taken = self._find(location)
        self.at(mark, location, f"found {_found(node, location, complete=taken == len(location))}; expected {expected}")

    def error(self, location: Location, message: str) -> None:
        """Add an error about what stands at `location`, in the words of `message`."""
        self.at(self._find(location)[1], location, message)

    def key(self, location: Location, message: str) -> None:
        """Add an error about the key that ends `location`."""
        parent, mark, _ = self._find(location[:-1])
        if isinstance(parent, Mapping):
            mark = parent.key_marks.get(str(location[-1]), mark)
        self.at(mark, location, message)

    def warn(self, location: Location, message: str) -> None:
        """Add a warning about what stands at `location`."""
        mark = self._find(location)[1]
        self._warnings.append((mark, _line(mark, location, message)))

    def line(self, location: Location, message: str) -> str:
        """Return what `warn` would add, without adding it."""
        return _line(self._find(location)[1], location, message)

    @property
    def full(self) -> bool:
        """True once there are so many errors that reading on helps nobody."""
        return len(self._errors) >= MAX_COLLECTED

    @property
    def errors(self) -> list[str]:
        """All errors in the order of the files and lines."""
        lines = _ordered(self._errors)
        hidden = len(lines) - MAX_PROBLEMS
        more = f"... and {hidden} more" + ("; reading stopped there" if self.full else "")
        return lines if hidden <= 0 else [*lines[:MAX_PROBLEMS], more]

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings in the order of the files and lines."""
        return tuple(_ordered(self._warnings))

    def raise_if_any(self) -> None:
        """Raise `ConfigError` when there is an error."""
        if self._errors:
            raise ConfigError(self.errors)

    def _find(self, location: Location) -> tuple[Node, Mark, int]:
        assert self.root is not None
        return find(self.root, location)


def _found(node: Node, location: Location, *, complete: bool) -> str:
    if not complete and not isinstance(node, Text):
        return "nothing"
    if "auth" in location and isinstance(node, Text) and node:
        return "a value that is not shown"
    return node.describe()


def _line(mark: Mark, location: Location, message: str) -> str:
    path = path_text(location)
    return f"{mark}: {path}: {message}" if path else f"{mark}: {message}"


def _ordered(found: list[tuple[Mark, str]]) -> list[str]:
    files = list(dict.fromkeys(mark.file for mark, _ in found))
    return [line for _, line in sorted(found, key=lambda item: (files.index(item[0].file), item[0].line,
                                                                item[0].column))]

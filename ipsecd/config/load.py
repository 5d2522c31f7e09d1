"""YAML text -> a tree of mappings, lists and scalars-as-text that knows its lines.

YAML 1.1 guesses types: `no` is False, `22:22` is 1342, `012` is 10, a second key of one name silently wins, and an
alias can multiply.  So this loader builds its own tree from the parser's events: every scalar stays the text that
the operator wrote, and what has no place in a configuration (duplicate keys, anchors, aliases, tags, merge keys,
deep nesting) is refused.  All problems of a text are collected; only a syntax error ends the reading early.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ipsecd.config.files import read_regular
from ipsecd.config.nodes import Location, Mapping, Mark, Node, Sequence, Text
from ipsecd.config.problems import Problems
from ipsecd.text import printable

MAX_DEPTH = 16                      # nested collections; the deepest key of the model stands at 8
MAX_BYTES = 4 * 1024 * 1024         # of one file; 500 peers take 100 KiB
MAX_FILES = 1024                    # in conf.d: one file a peer on a large head-end
PRIVATE_MODE = 0o600                # an inline `psk:` is taken from a file of this mode only

_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class Document:
    """One configuration as written: the merged tree, and which of its files may hold a secret inline."""

    root: Mapping = field(repr=False)
    files: tuple[str, ...]
    private: frozenset[str]         # names of the files whose mode is 0600


def load(path: Path) -> Document:
    """Read `path` and the peers of `conf.d/*.yaml` beside it, in the order of their names.

    Raises `ConfigError` with every problem that the texts themselves have.
    """
    problems = Problems()
    document = load_into(path, problems)
    problems.raise_if_any()
    assert document is not None
    return document


def parse(text: str, filename: str, *, private: bool = False) -> Document:
    """Parse one text, under the name used in messages; raise `ConfigError` with every problem.

    `private` says that inline secrets are allowed, as in a file of mode 0600.
    """
    problems = Problems()
    document = parse_into(text, filename, problems, private=private)
    problems.raise_if_any()
    assert document is not None
    return document


def load_into(path: Path, problems: Problems) -> Document | None:
    """Do as `load`, but leave the problems to the caller; None where a file cannot be read to its end."""
    names = [path, *_drop_ins(path.parent / "conf.d", problems)]
    private: list[str] = []
    roots: list[Mapping | None] = []
    for name in names:
        text, mode = _read(name, problems)
        roots.append(None if text is None else _build(text, str(name), problems))
        if mode == PRIVATE_MODE:
            private.append(str(name))
    main = roots[0]
    if main is None:
        return None
    for extra in roots[1:]:
        if extra is not None:
            _merge(main, extra, problems)
    return Document(main, tuple(str(n) for n in names), frozenset(private))


def parse_into(text: str, filename: str, problems: Problems, *, private: bool) -> Document | None:
    """Do as `parse`, but leave the problems to the caller; None where the text cannot be read to its end."""
    root = _build(text, filename, problems)
    return None if root is None else Document(root, (filename,), frozenset({filename} if private else ()))


def _drop_ins(directory: Path, problems: Problems) -> list[Path]:
    try:
        found = sorted(p for p in directory.glob("*.yaml") if not p.name.startswith("."))
    except OSError as error:
        problems.file(str(directory), error.strerror or "cannot be read")
        return []
    if len(found) > MAX_FILES:
        problems.file(str(directory), f"found {len(found)} files; expected at most {MAX_FILES}")
    return found[:MAX_FILES]


def _read(path: Path, problems: Problems) -> tuple[str | None, int]:
    """Return the text and mode bits of a regular file; the mode is that of the open file, not of the name."""
    try:
        data, status = read_regular(path, MAX_BYTES)
    except ValueError as error:
        problems.file(str(path), f"cannot be read ({error}); expected a YAML file")
        return None, 0
    if len(data) > MAX_BYTES:
        problems.file(str(path), f"found more than {MAX_BYTES} bytes; expected a configuration of at most 4 MiB")
        return None, 0
    try:
        return data.decode("utf-8-sig"), stat.S_IMODE(status.st_mode)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.at(Mark(str(path), line, 1), (), "found bytes that are not UTF-8; expected UTF-8 text")
        return None, 0


def _merge(main: Mapping, extra: Mapping, problems: Problems) -> None:
    for key in extra:
        if key != "peers":
            problems.at(extra.key_marks[key], (key,), "found this key in conf.d; expected only `peers` there")
    added = extra.get("peers")
    if not isinstance(added, Mapping):
        return
    if "peers" not in main:
        main.key_marks["peers"] = extra.key_marks["peers"]
        main["peers"] = Mapping(added.mark)
    peers = main["peers"]
    if not isinstance(peers, Mapping):
        return
    for name, node in added.items():
        if name in peers:
            first = peers.key_marks[name]
            problems.at(added.key_marks[name], ("peers", name),
                        f"found a second peer of this name; the first is at {first.file}:{first.line}")
            continue
        peers.key_marks[name] = added.key_marks[name]
        peers[name] = node


def _build(text: str, filename: str, problems: Problems) -> Mapping | None:
    if len(text) > MAX_BYTES:
        problems.file(filename, f"found more than {MAX_BYTES} characters; expected at most 4 MiB")
        return None
    builder = _Builder(filename, problems)
    try:
        for event in _events(text):
            builder.take(event)
            if problems.full:
                return None
    except yaml.YAMLError as error:
        _syntax_error(error, text, filename, problems)
        return None
    except UnicodeEncodeError as error:         # half a surrogate pair: no file can hold it, JSON of a client can
        _bad_character(text, error.start, filename, problems)
        return None
    except _TooDeep:
        return None
    root = builder.root
    if isinstance(root, Mapping):
        return root
    mark = root.mark if root is not None else Mark(filename, 1, 1)
    if root is None or root == "":
        problems.at(mark, (), "found an empty file; expected at least `gateway:` and `peers:`")
    else:
        # A file given by mistake may be a key: its text is not shown.
        found = "text" if isinstance(root, Text) else root.describe()
        problems.at(mark, (), f"found {found}; expected a mapping with `gateway:`, `peers:` ...")
    return None


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=_PARSER)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


class _TooDeep(Exception):
    """Nesting beyond MAX_DEPTH; reading stops there, because a parser's stack grows with it."""


@dataclass(slots=True)
class _Frame:
    """An open collection, where it stands, and the key that waits for its value."""

    node: Mapping | Sequence
    location: Location
    key: Text | None = None

    def inside(self) -> Location:
        """Return the location of what comes next in it."""
        if isinstance(self.node, Sequence):
            return (*self.location, len(self.node))
        return self.location if self.key is None else (*self.location, str(self.key))


class _Builder:
    """Builds the tree from events, iteratively: no input can exhaust Python's stack."""

    def __init__(self, filename: str, problems: Problems) -> None:
        self.root: Node | None = None
        self._file = filename
        self._problems = problems
        self._open: list[_Frame] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the parser."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, "found an alias; expected the value itself (write it out)")
            self._problems.settle(self._mark(event))
            self._place(Text("", self._mark(event)))
        elif isinstance(event, yaml.ScalarEvent):
            self._check_node(event)
            text = Text(event.value, self._mark(event), plain=not event.style)
            if printable(text, len(text)) != text:
                self._refuse(event, "found a control or invisible character; expected printable text on one line")
            self._place(text)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check_node(event)
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(event, "found a second document (`---`); expected one document a file")
            if event.tags:
                self._refuse(event, "found a %TAG directive; expected none")

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._open) >= MAX_DEPTH:
            self._refuse(event, f"found nesting deeper than {MAX_DEPTH}; expected a configuration")
            raise _TooDeep
        mark = self._mark(event)
        node: Mapping | Sequence = Mapping(mark) if isinstance(event, yaml.MappingStartEvent) else Sequence(mark)
        frame = _Frame(node, self._path())
        self._place(node)
        self._open.append(frame)

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node if self._documents == 1 else self.root
            return
        frame = self._open[-1]
        if isinstance(frame.node, Sequence):
            frame.node.append(node)
        elif frame.key is None:
            frame.key = self._key(node)
        else:
            self._assign(frame.node, frame.key, node)
            frame.key = None

    def _key(self, node: Node) -> Text:
        if not isinstance(node, Text):
            self._problems.at(node.mark, self._path(), f"found {node.describe()} as a key; expected a plain word")
            return Text("", node.mark)
        if node == "<<" and node.plain:
            self._problems.at(node.mark, self._path(), "found a merge key `<<`; expected the keys themselves")
        return node

    def _assign(self, parent: Mapping, key: Text, node: Node) -> None:
        if key in parent:
            first = parent.key_marks[key]
            self._problems.at(key.mark, self._path(),
                              f"found this key a second time; the first is at line {first.line}")
            return
        parent.key_marks[str(key)] = key.mark
        parent[str(key)] = node

    def _check_node(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            self._refuse(event, f"found an anchor &{printable(event.anchor, 40)}; expected none (aliases are refused)")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(event, f"found a tag {printable(tag, 40)}; expected a plain value")

    def _refuse(self, event: yaml.Event, message: str) -> None:
        self._problems.at(self._mark(event), self._path(), message)

    def _path(self) -> Location:
        """Return the location of what is being read."""
        return self._open[-1].inside() if self._open else ()

    def _mark(self, event: yaml.Event) -> Mark:
        start = event.start_mark
        assert start is not None        # parsers mark every event; the stubs allow events made by hand
        return Mark(self._file, start.line + 1, start.column + 1)


# The context of YAML's own messages quotes the text, which may be a secret: only `problem` is shown.
def _syntax_error(error: yaml.YAMLError, text: str, filename: str, problems: Problems) -> None:
    if isinstance(error, yaml.reader.ReaderError):
        _bad_character(text, error.position, filename, problems)
        return
    place = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    line, column = (place.line, place.column) if place else (0, 0)
    lines = text.splitlines()
    found = printable(getattr(error, "problem", None) or "invalid YAML", 120)
    cure = "expected valid YAML"
    # YAML reads an unquoted `::` at the start, or a final `:`, as its own punctuation.
    if line < len(lines) and re.search(r"(^|[\s\[{,])::|::($|[\s\]},])", lines[line]):
        cure = 'expected the IPv6 address in quotes, as in "::/0"'
    elif "\t" in lines[line][: column + 1] if line < len(lines) else False:
        cure = "expected spaces instead of tabs"
    problems.at(Mark(filename, line + 1, column + 1), (), f"found a syntax error ({found}); {cure}")


def _bad_character(text: str, position: int, filename: str, problems: Problems) -> None:
    mark = Mark(filename, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))
    problems.at(mark, (), "found a character that YAML does not allow; expected printable text")

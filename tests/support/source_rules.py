"""Rules about the source that the source itself can show: imports by layer, purity, what is never written.

Each rule is a function from a parsed module to the lines that break it; tests/test_layering.py runs them over the tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Who may import whom: a module may import lower layers and its own, never a higher one. The longest name that fits
# decides. A new module of layers 0-5 is entered here.
LAYERS = {
    0: "causes drops effects errors events policy rate reports rng sa secret selectors suites text views ike.consts",
    1: "intervals ike.wire ipsec.early ipsec.ecn ipsec.held ipsec.ip ipsec.lifetime ipsec.mtu ipsec.offload ipsec.pad "
       "ipsec.outer_header ipsec.replay ipsec.reports ipsec.slots ipsec.spd ipsec.tfc ipsec.udp_encap",
    2: "aead ike.crypto ipsec.ah ipsec.ah_transport ipsec.esp ipsec.sad ipsec.transport",
    3: "ike.collisions ike.deadlines ike.failures ike.fragments ike.half_open ike.narrow ike.negotiate "
       "ike.pmtud ike.proposal_match ike.retransmit ike.states ike.transport ike.window",
    4: "ike ipsec.ah_inbound ipsec.dataplane ipsec.early_inbound ipsec.runs",   # what of ike stands in no lower layer
    5: "actions config.diff config.overlap gateway guard_plan guard_sets host phases protected redirects routing_plan "
       "supervision supervisor wants",
    6: "config control engine log metrics runtime",
    7: "advice cli daemon reload service",
}
PURE = 5                                         # the last layer without I/O
LAYER_OF = {f"ipsecd.{name}": layer for layer, names in LAYERS.items() for name in names.split()}

# I/O, clocks, chance, concurrency and frameworks: arguments or effects in the core.
IMPURE_MODULES = frozenset({
    "asyncio", "datetime", "fcntl", "io", "logging", "multiprocessing", "os", "pathlib", "pydantic", "pyroute2",
    "random", "secrets", "select", "signal", "socket", "structlog", "subprocess", "sys", "tempfile", "threading",
    "time", "uuid"})
IMPURE_CALLS = frozenset({"print", "open", "input", "breakpoint"})
UNSAFE_MODULES = frozenset({"pickle", "marshal", "shelve", "dill"})
UNSAFE_CALLS = frozenset({"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"})
MUTATORS = frozenset({
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove",
    "setdefault", "sort", "update"})
# What takes a set and does not show its order.
ORDERLESS = frozenset({"all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum"})
# Values that an attacker could find byte by byte if comparing them took time for each right byte. A `psk` is a Secret
# everywhere, and Secret compares itself in constant time.
COMPARED_SECRET = re.compile(r"(^|_)(mac|icv|auth|cookie2?|token)$|_key$")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    """A source file and its tree."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def layer(self) -> int | None:
        """The layer, None for a module that nobody entered."""
        name = self.name
        while name not in LAYER_OF and "." in name:
            name = name.rpartition(".")[0]
        return LAYER_OF.get(name)

    @cached_property
    def lines_for_types(self) -> set[int]:
        """The lines that only type checkers execute."""
        return {line for node in self.nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield (line, full module name) of every import, those for types included."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from ipsecd.ike import consts` imports the submodule.
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def package() -> list[Module]:
    """Return every module of ipsecd."""
    return [_module(path) for path in sorted((ROOT / "ipsecd").rglob("*.py"))]


def all_tests() -> list[Module]:
    """Return every module of the tests."""
    return [_module(path) for path in sorted((ROOT / "tests").rglob("*.py"))]


def tests_of_the_core() -> list[Module]:
    """Return the tests in which time and chance are arguments."""
    return [_module(path) for part in ("unit", "exchange", "property")
            for path in sorted((ROOT / "tests" / part).rglob("*.py"))]


def layer_of(name: str) -> int | None:
    """Return the layer of a full name such as `ipsecd.errors.WireError`."""
    return Module(name, "", "").layer


def upward_imports(module: Module) -> Iterator[str]:
    """Imports of a higher layer; between ike and ipsec; relative ones."""
    for line, name in module.imports():
        theirs = layer_of(name)
        if theirs is not None and module.layer is not None and theirs > module.layer:
            yield f"{module.path}:{line}: layer {module.layer} imports {name} of layer {theirs}"
        if theirs and {room(module.name), room(name)} == {"ike", "ipsec"} and module.layer and module.layer <= 4:
            yield f"{module.path}:{line}: {module.name} imports {name}: ike and ipsec never import each other"
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{module.path}:{node.lineno}: relative import"


def room(name: str) -> str:
    """Return the part after `ipsecd.`."""
    return (name.split(".") + [""])[1]


def impurity(module: Module) -> Iterator[str]:
    """I/O, clocks, chance, `async` and state shared by all objects, in the layers that must have none."""
    for line, name in module.imports():
        if name.split(".")[0] in IMPURE_MODULES:
            yield f"{module.path}:{line}: {name} in a pure layer"
    for node in module.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{module.path}:{node.lineno}: async in a pure layer"
        elif isinstance(node, ast.Global):
            yield f"{module.path}:{node.lineno}: module-level state"
        elif isinstance(node, ast.Call) and _called(node) in IMPURE_CALLS:
            yield f"{module.path}:{node.lineno}: {_called(node)}() in a pure layer"
    tables = {target.id for statement in module.tree.body for target in _targets(statement)}
    for node in module.nodes:
        changed = _changed_name(node)
        if changed in tables:
            yield f"{module.path}:{node.lineno}: {changed} is a module-level table and changed here"  # type: ignore[attr-defined]


def set_iteration(module: Module) -> Iterator[str]:
    """Places where the arbitrary order of a set gets into what happens."""
    known = _names_of_sets(module)
    orderless: set[ast.AST] = set()
    for node in module.nodes:
        if isinstance(node, ast.Call) and _called(node) in ORDERLESS:
            orderless.update(node.args)
    for node in module.nodes:
        if node in orderless:
            continue
        if isinstance(node, ast.For):
            sources = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            sources = [part.iter for part in node.generators]
        elif isinstance(node, ast.Call) and _called(node) in {"list", "tuple", "iter", "enumerate", "zip", "map"}:
            sources = node.args
        elif isinstance(node, ast.Starred):
            sources = [node.value]
        else:
            continue
        for source in sources:
            if _is_set(source, known):
                yield f"{module.path}:{source.lineno}: order of a set: {ast.unparse(source)}"


def unsafe_calls(module: Module) -> Iterator[str]:
    """What turns data into code, and errors into silence."""
    for line, name in module.imports():
        if name.split(".")[0] in UNSAFE_MODULES:
            yield f"{module.path}:{line}: imports {name}"
    for node in module.nodes:
        if isinstance(node, ast.Call):
            if _called(node) in UNSAFE_CALLS:
                yield f"{module.path}:{node.lineno}: {_called(node)}"
            if any(word.arg == "shell" and not _is_constant(word.value, False) for word in node.keywords):
                yield f"{module.path}:{node.lineno}: shell="
            if _called(node).endswith("suppress") and any(_is_broad(argument) for argument in node.args):
                yield f"{module.path}:{node.lineno}: every exception suppressed"
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield f"{module.path}:{node.lineno}: bare except"
            elif _is_broad(node.type) and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body):
                yield f"{module.path}:{node.lineno}: every exception swallowed"


def secret_equality(module: Module) -> Iterator[str]:
    """`==` on values that must be compared in constant time."""
    for node in module.nodes:
        if isinstance(node, ast.Compare) and any(isinstance(how, ast.Eq | ast.NotEq) for how in node.ops):
            sides = [node.left, *node.comparators]
            names = [side.attr if isinstance(side, ast.Attribute) else side.id for side in sides
                     if isinstance(side, ast.Attribute | ast.Name)]
            plain = any(isinstance(side, ast.Constant) or _is_member(side) for side in sides)
            if not plain and any(COMPARED_SECRET.search(name) for name in names):
                yield f"{module.path}:{node.lineno}: {ast.unparse(node)} compares a secret by ==; use same_bytes"


def size(module: Module) -> Iterator[str]:
    """Files and functions that hold a second idea."""
    lines = module.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{module.path}: {lines} lines"
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{module.path}:{node.lineno}: {node.name} has {length} lines"


def sleeping_or_patching(module: Module) -> Iterator[str]:
    """Waiting for real time, and replacing parts of what is tested."""
    for line, name in module.imports():
        if name.split(".")[:2] == ["unittest", "mock"] or name.split(".")[0] == "mock":
            yield f"{module.path}:{line}: imports {name}"
    for node in module.nodes:
        if isinstance(node, ast.Call) and _called(node).split(".")[-1] == "sleep":
            yield f"{module.path}:{node.lineno}: sleeps"
        elif isinstance(node, ast.arg) and node.arg in {"monkeypatch", "mocker"}:
            yield f"{module.path}:{node.lineno}: {node.arg}"


def import_cycle(modules: list[Module]) -> list[str]:
    """Return the names of one cycle of imports, or nothing; imports for type checkers only close none."""
    names = {module.name for module in modules}
    graph = {module.name: sorted({_nearest(name, names) for line, name in module.imports()
                                  if line not in module.lines_for_types} - {"", module.name})
             for module in modules}
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return trail[trail.index(name):] + [name]
        if name in done:
            return []
        cycle = next(filter(None, (walk(next_name, [*trail, name]) for next_name in graph[name])), [])
        done.add(name)
        return cycle

    return next(filter(None, (walk(name, []) for name in graph)), [])


def _module(path: Path) -> Module:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return Module(name, str(path.relative_to(ROOT)), path.read_text())


def _nearest(name: str, names: set[str]) -> str:
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name if name != "ipsecd" else ""


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _targets(statement: ast.stmt) -> Iterator[ast.Name]:
    """Yield what a statement of a module binds to a list, dict or set."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target for target in targets if isinstance(target, ast.Name))


def _changed_name(node: ast.AST) -> str | None:
    """Return the name of a table that this node changes."""
    changed: ast.expr | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        changed = node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        changed = node.func.value
    return changed.id if isinstance(changed, ast.Name) else None


def _names_of_sets(module: Module) -> set[str]:
    """Return names and attributes that are annotated as sets, or only ever assigned sets."""
    annotated, assigned, others = set(), set(), set()
    for node in module.nodes:
        if isinstance(node, ast.AnnAssign) or (isinstance(node, ast.arg) and node.annotation):
            target = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            (annotated if re.match(r"(frozen|Abstract)?[sS]et\b", ast.unparse(node.annotation)) else others).add(target)
        elif isinstance(node, ast.Assign):
            for target in map(ast.unparse, node.targets):
                (assigned if _is_set(node.value, set()) else others).add(target)
    return (annotated | assigned) - others


def _is_set(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        return _is_set(node.left, known) or _is_set(node.right, known)
    return (isinstance(node, ast.Set | ast.SetComp)
            or (isinstance(node, ast.Call) and _called(node) in {"set", "frozenset"})
            or (isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in known))


def _is_broad(node: ast.expr) -> bool:
    return ast.unparse(node) in {"Exception", "BaseException"}


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_member(node: ast.expr) -> bool:
    """Return whether this reads like a member of an enumeration."""
    return isinstance(node, ast.Attribute) and node.attr.isupper()

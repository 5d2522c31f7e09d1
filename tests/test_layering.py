"""The house rules about imports, purity and what is never written, held by the source itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support import source_rules as rules
from tests.support.source_rules import Module

PACKAGE = rules.package()
PURE = [module for module in PACKAGE if module.layer is not None and module.layer <= rules.PURE]
Rule = Callable[[Module], Iterator[str]]


def test_every_module_has_a_layer() -> None:
    assert [module.path for module in PACKAGE if module.layer is None and not module.is_package] == []


def test_packages_import_nothing_at_their_root() -> None:
    assert [module.path for module in PACKAGE if module.is_package and list(module.imports())
            and {name for _, name in module.imports()} != {"__future__.annotations"}] == []


def test_imports_have_no_cycle() -> None:
    assert rules.import_cycle(PACKAGE) == []


def test_no_layer_imports_a_higher_one() -> None:
    assert broken(rules.upward_imports, PACKAGE) == []


def test_core_has_no_io_clock_chance_or_shared_state() -> None:
    assert broken(rules.impurity, PURE) == []


def test_core_never_depends_on_the_order_of_a_set() -> None:
    assert broken(rules.set_iteration, PURE) == []


def test_package_never_turns_data_into_code_nor_errors_into_silence() -> None:
    assert broken(rules.unsafe_calls, PACKAGE) == []


def test_secrets_are_never_compared_by_equality() -> None:
    assert broken(rules.secret_equality, PACKAGE) == []


def test_files_and_functions_stay_small() -> None:
    assert broken(rules.size, PACKAGE + rules.all_tests()) == []


def test_tests_of_the_core_neither_sleep_nor_patch() -> None:
    assert broken(rules.sleeping_or_patching, rules.tests_of_the_core()) == []


@pytest.mark.parametrize(("rule", "source"), [
    (rules.upward_imports, "from ipsecd.gateway import Gateway"),
    (rules.upward_imports, "from ipsecd.ipsec import spd"),
    (rules.upward_imports, "from . import tasks"),
    (rules.impurity, "import time"),
    (rules.impurity, "from os import urandom"),
    (rules.impurity, "async def f(): ..."),
    (rules.impurity, "print(1)"),
    (rules.impurity, "CACHE = {}\ndef f(): CACHE[1] = 2"),
    (rules.impurity, "CACHE: list[int] = []\ndef f(): CACHE.append(2)"),
    (rules.impurity, "COUNT = 0\ndef f():\n    global COUNT\n    COUNT = 1"),
    (rules.set_iteration, "for x in {1, 2}: pass"),
    (rules.set_iteration, "y = [x for x in set(z)]"),
    (rules.set_iteration, "def f(z: frozenset[int]): return list(z)"),
    (rules.set_iteration, "a = {1}\nb = [*a]"),
    (rules.set_iteration, "for x in set(a) - set(b): pass"),
    (rules.unsafe_calls, "subprocess.run(x, shell=True)"),
    (rules.unsafe_calls, "import pickle"),
    (rules.unsafe_calls, "yaml.load(x)"),
    (rules.unsafe_calls, "try: f()\nexcept Exception: pass"),
    (rules.unsafe_calls, "with contextlib.suppress(Exception): f()"),
    (rules.secret_equality, "ok = received_icv == expected"),
    (rules.secret_equality, "ok = self.cookie != other"),
    (rules.sleeping_or_patching, "time.sleep(1)"),
    (rules.sleeping_or_patching, "from unittest.mock import patch"),
    (rules.sleeping_or_patching, "def test_x(monkeypatch): ..."),
])
def test_rule_catches(rule: Rule, source: str) -> None:
    assert list(rule(Module("ipsecd.ike.window", "x.py", source)))


@pytest.mark.parametrize(("rule", "source"), [
    (rules.impurity, "TABLE = {1: 2}\ndef f(): return TABLE[1]"),
    (rules.set_iteration, "def f(z: frozenset[int]): return sorted(z), any(x > 1 for x in z)"),
    (rules.set_iteration, "for x in sorted({1, 2}): pass"),
    (rules.secret_equality, "ok = peer.auth == AuthMethod.PSK"),
    (rules.unsafe_calls, "try: f()\nexcept Exception as error: log(error)"),
])
def test_rule_lets_pass(rule: Rule, source: str) -> None:
    assert list(rule(Module("ipsecd.ike.window", "x.py", source))) == []


def broken(rule: Rule, modules: list[Module]) -> list[str]:
    """Return what breaks the rule, over all modules."""
    return [line for module in modules for line in rule(module)]

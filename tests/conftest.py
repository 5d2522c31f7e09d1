"""What holds for every test: a run that is told to end still takes its namespaces and daemons away.

Property tests try the same examples in every run, so that one says the same as the next, and none judges by time: the
machine may be busy.  `pytest --hypothesis-profile=explore` looks for new ones.
"""

from __future__ import annotations

import signal
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from tests.support.register import names_proving

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("explore"), derandomize=True, print_blob=False)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proves", action="append", metavar="ID", help="run the tests of a row of docs/scenarios.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if wanted := config.getoption("proves"):
        names = frozenset().union(*map(names_proving, wanted))
        kept = [item for item in items if getattr(item, "originalname", item.name) in names]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_configure() -> None:
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    pytest.exit("told to end", returncode=128 + number)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.world import World
from tests.lab.rig import Rig


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Rig() as rig:
        yield World(rig)

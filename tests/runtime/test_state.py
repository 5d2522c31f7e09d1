from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ipsecd.routing_plan import RoutingPlan, make_plan
from ipsecd.runtime.state import StateError, load_plan, remove_plan, save_plan
from tests.support.policies import EVERYWHERE, GATEWAY, SITE_A, SITE_B, entry, policy


def test_stored_plan_comes_back_equal(tmp_path: Path) -> None:
    for entries in ([entry("protect", SITE_A, SITE_B)], [entry("discard"), entry("protect", SITE_A, EVERYWHERE)],
                    [entry("protect", SITE_A, SITE_B, interface="lan1")]):
        plan = make_plan(policy(*entries), GATEWAY, {})
        save_plan(tmp_path, plan)
        assert load_plan(tmp_path) == plan


def test_directory_and_file_are_for_the_owner_alone(tmp_path: Path) -> None:
    save_plan(tmp_path / "new", plan_of())
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "plan.json").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "new") == ["plan.json"]


def test_no_stored_plan_is_none(tmp_path: Path) -> None:
    assert load_plan(tmp_path) is None
    assert load_plan(tmp_path / "absent") is None


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"format": 99, "plan": {}}', '{"format": 2, "plan": {}}',
                                  '{"format": 2, "plan": {"devices": 3}}', "\xff"])
def test_anything_else_is_a_state_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(StateError):
        load_plan(tmp_path)


def test_plan_with_an_unknown_field_is_a_state_error(tmp_path: Path) -> None:
    save_plan(tmp_path, plan_of())
    stored = json.loads((tmp_path / "plan.json").read_text())
    stored["plan"]["rules"][0]["surprise"] = 1
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    with pytest.raises(StateError):
        load_plan(tmp_path)


def test_directory_that_cannot_be_made_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        save_plan(tmp_path / "file" / "state", plan_of())


def test_removed_plan_is_gone_and_removing_twice_is_nothing(tmp_path: Path) -> None:
    save_plan(tmp_path, plan_of())
    remove_plan(tmp_path)
    remove_plan(tmp_path)
    assert load_plan(tmp_path) is None


def plan_of() -> RoutingPlan:
    return make_plan(policy(entry("protect", SITE_A, SITE_B)), GATEWAY, {})

"""The transition tables of IKE SAs and Child SAs: closed, and every state reached from the first ones."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.errors import LocalError
from ipsecd.ike.states import (
    CHILD_TRANSITIONS,
    IKE_TRANSITIONS,
    AuthSent,
    ChildState,
    Dead,
    Deleting,
    Established,
    IkeState,
    InitAnswered,
    Rekeyed,
    check_child_transition,
    check_ike_transition,
)

IKE_STATES: tuple[IkeState, ...] = (AuthSent(0), InitAnswered(0), Established(0), Rekeyed(0), Deleting(0),
                                    Dead(Failure(Cause.OPERATOR)))


def reached(table: dict[object, tuple[object, ...]], first: set[object]) -> set[object]:
    found, todo = set(first), list(first)
    while todo:
        new = set(table[todo.pop()]) - found
        found |= new
        todo += new
    return found


def test_ike_states_are_all_in_the_table_and_all_reached() -> None:
    assert set(IKE_TRANSITIONS) == set(get_args(IkeState)) == {type(s) for s in IKE_STATES}
    assert reached(dict(IKE_TRANSITIONS), {AuthSent, InitAnswered}) == set(IKE_TRANSITIONS)


def test_every_ike_sa_can_die_and_none_comes_back() -> None:
    assert all(Dead in after for state, after in IKE_TRANSITIONS.items() if state is not Dead)
    assert IKE_TRANSITIONS[Dead] == ()


def test_child_states_are_all_in_the_table_and_all_reached() -> None:
    assert set(CHILD_TRANSITIONS) == set(ChildState)
    assert reached(dict(CHILD_TRANSITIONS), {ChildState.UP, ChildState.ARRIVING}) == set(ChildState)
    assert all(ChildState.GONE in after for state, after in CHILD_TRANSITIONS.items() if state is not ChildState.GONE)


@pytest.mark.parametrize(("old", "new"), list(product(IKE_STATES, IKE_STATES)))
def test_ike_transition_is_checked_against_the_table(old: IkeState, new: IkeState) -> None:
    if type(new) in IKE_TRANSITIONS[type(old)]:
        check_ike_transition(old, new)
    else:
        with pytest.raises(LocalError):
            check_ike_transition(old, new)


@pytest.mark.parametrize(("old", "new"), list(product(ChildState, ChildState)))
def test_child_transition_is_checked_against_the_table(old: ChildState, new: ChildState) -> None:
    if new in CHILD_TRANSITIONS[old]:
        check_child_transition(old, new)
    else:
        with pytest.raises(LocalError):
            check_child_transition(old, new)

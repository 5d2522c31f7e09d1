"""Where a failure points to in the files."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.config.load import parse_into
from ipsecd.config.places import Places
from ipsecd.config.problems import Problems
from ipsecd.events import ChildFailed, Notice

TEXT = """\
defaults:
  ike:
    proposals: [aes256gcm16-prfsha384-x25519]
peers:
  hq:
    address: hq.example.net
    children:
      lan:
        esp:
          pfs: required
"""


def places() -> Places:
    document = parse_into(TEXT, "x.yaml", Problems(), private=True)
    assert document is not None
    return Places(document.root)


@pytest.mark.parametrize(("cause", "where"), [
    (Cause.PFS_MISMATCH, "x.yaml:10 peers.hq.children.lan.esp.pfs"),
    (Cause.NO_PROPOSAL, "x.yaml:3 defaults.ike.proposals"),
    (Cause.NAME_UNRESOLVED, "x.yaml:6 peers.hq.address"),
    (Cause.WRONG_IDENTITY, "x.yaml:5 peers.hq"),
    (Cause.NO_CHILD_PROPOSAL, "x.yaml:9 peers.hq.children.lan.esp"),
    (Cause.TS_UNACCEPTABLE, "x.yaml:8 peers.hq.children.lan"),
    (Cause.PEER_DEAD, "")])
def test_failure_points_to_the_key_or_the_nearest_that_is_written(cause: Cause, where: str) -> None:
    assert places().of(Failure(cause), "hq", "lan") == where


def test_event_carries_where_and_one_without_failure_is_as_it_was() -> None:
    event = places().placed(ChildFailed("hq", "lan", Failure(Cause.PFS_MISMATCH)))
    assert event.failure.where == "x.yaml:10 peers.hq.children.lan.esp.pfs"
    assert places().placed(Notice("started", "")) == Notice("started", "")


def test_peer_that_a_reload_took_away_points_nowhere_else() -> None:
    assert places().of(Failure(Cause.WRONG_IDENTITY), "gone", "lan") in ("", "x.yaml:4 peers")

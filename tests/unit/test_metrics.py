"""Metrics: names, labels and escaping of the exposition text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from ipsecd.control.schema import StatusAnswer
from ipsecd.metrics import render
from tests.support.control import peer_failing, peer_up, status_answer

HOSTILE = 'q"\\\n\x00\x1b[2J\u202e{}'


def test_peer_and_child_are_shown_by_name() -> None:
    found = samples(status_answer())

    assert found["ipsecd_peer_up", (("peer", "hq"),)] == 1
    assert found["ipsecd_peer_up", (("peer", "lab"),)] == 0
    assert found["ipsecd_peer_last_error", (("cause", "no_proposal"), ("peer", "lab"))] == 1
    assert found["ipsecd_child_bytes_total", (("child", "office"), ("direction", "in"), ("peer", "hq"))] == 1_258_291
    assert found["ipsecd_guard_installed", ()] == 1


def test_every_name_begins_with_ipsecd() -> None:
    assert all(name.startswith("ipsecd_") for name, _ in samples(status_answer()))


def test_text_of_a_peer_makes_no_series() -> None:
    plain, hostile = status_answer(peer_up()), status_answer(peer_up(identity=HOSTILE))

    assert render(plain) == render(hostile)


def test_hostile_name_is_escaped() -> None:
    text = render(status_answer(peer_failing(HOSTILE))).decode()

    assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
    label = 'q"\\\\x0a\\x00\\x1b[2J\\x202e{}'
    assert samples(status_answer(peer_failing(HOSTILE)))["ipsecd_peer_up", (("peer", label),)] == 0


def samples(answer: StatusAnswer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Parse the exposition text."""
    families = text_string_to_metric_families(render(answer).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

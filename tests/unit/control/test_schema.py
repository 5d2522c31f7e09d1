"""The published schema: the document is current, no answer carries unescaped text, none has room for a key."""

from __future__ import annotations

import json
from pathlib import Path

from ipsecd.control import schema
from ipsecd.control.document import document
from tests.support.control import peer_up, status_answer

HOSTILE = 'a"b\n\x00\x1b[2J\u202e\u0085\\x'


def test_document_is_current() -> None:
    published = Path(__file__).parents[3] / "docs" / "control-api.md"

    # python -m ipsecd.control.document > docs/control-api.md
    assert published.read_text(encoding="utf-8") == document()


def test_answers_escape_text_of_peers_and_stay_ascii() -> None:
    answer = status_answer(peer_up(identity=HOSTILE))

    encoded = answer.model_dump_json(ensure_ascii=True)

    assert encoded.isascii()
    assert json.loads(encoded)["peers"][0]["ike"][0]["remote_identity"] == 'a"b\\x0a\\x00\\x1b[2J\\x202e\\x85\\x'


def test_escaping_twice_changes_nothing() -> None:
    assert schema.shown(schema.shown(HOSTILE)) == schema.shown(HOSTILE)


def test_client_ignores_fields_of_a_newer_daemon() -> None:
    newer = status_answer().model_dump() | {"added_later": 1}

    assert schema.StatusAnswer.model_validate(newer) == status_answer()

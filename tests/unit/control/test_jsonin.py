"""What clients send is bounded and strict."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecd.control.jsonin import MAX_DEPTH, BadRequest, parse_request
from ipsecd.control.schema import PlanRequest, PolicyQuery, ReloadRequest, Target

GOOD = b'{"peer": "hq", "wait": true}'


def test_request_is_read() -> None:
    assert parse_request(GOOD, Target) == Target(peer="hq", wait=True)


def test_empty_body_is_a_request_without_fields() -> None:
    assert parse_request(b"", ReloadRequest) == ReloadRequest()


@pytest.mark.parametrize(("body", "says"), [
    (b'{"peer": "hq"', "not the JSON"),
    (b"[1]", "request:"),
    (b'{"peer": "hq", "peer": "lab"}', "twice"),
    (b'{"peer": "hq", "pear": 1}', "pear"),
    (b'{"peer": 1}', "peer"),
    (b'{"peer": "hq", "wait": "yes"}', "wait"),
    (b'{"peer": NaN}', "NaN"),
    (b'{"peer": "\xff"}', "not the JSON"),
    (b'{"peer": ' + b"9" * 5000 + b"}", "not the JSON"),
    (b"[" * 100_000, "nested"),
    (b'{"a":' * 40 + b"1" + b"}" * 40, "nested"),
])
def test_bad_request_says_what_is_wrong(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse_request(body, Target)


def test_brackets_within_strings_do_not_nest() -> None:
    text = '[{"\\"' * (MAX_DEPTH + 1)

    assert parse_request(json.dumps({"text": text}).encode(), PlanRequest).text == text


def test_long_unfinished_string_costs_linear_time() -> None:
    with pytest.raises(BadRequest):
        parse_request(b'"' + b'\\"' * 2_000_000, Target)


def test_packet_of_two_families_is_refused() -> None:
    with pytest.raises(BadRequest, match="families"):
        parse_request(b'{"source": "10.0.0.1", "destination": "2001:db8::1"}', PolicyQuery)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_bad_request(body: bytes) -> None:
    said = ""
    try:
        parse_request(body, Target)
    except BadRequest as error:
        said = str(error)
    assert said.isprintable()

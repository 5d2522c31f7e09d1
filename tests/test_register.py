"""The register of scenarios and attacks is whole, names tests that exist, and is what docs/scenarios.md shows."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.support import register

# How many rows each series of IDs has: one that is taken out, or never came in, is missed here.
SERIES = {
    "IN": 60, "AU": 32, "CE": 20, "TS": 10, "EX": 8, "ML": 19, "FR": 15, "CC": 12, "CR": 17, "CX": 20, "IR": 24,
    "DL": 13, "LV": 12, "NT": 6, "MB": 10, "SP": 14, "IB": 15, "RP": 14, "IC": 11, "EC": 4, "FG": 7, "TR": 10, "RL": 12,
    "RS": 11, "NW": 7, "CT": 5, "A": 130,
}
ROWS = register.rows()


def test_register_has_every_row_once() -> None:
    expected = {f"{series}-{n:0{3 if series == 'A' else 2}}" for series, size in SERIES.items()
                for n in range(1, size + 1)}
    assert Counter(row.id for row in ROWS) == Counter(expected)


def test_every_row_says_what_proves_it_or_why_nothing_does() -> None:
    assert [row.id for row in ROWS if not (row.tests or row.pending or row.not_ours)] == []


def test_every_test_that_the_register_names_exists_once() -> None:
    known, wrong = register.tests_by_name(), []
    for row in ROWS:
        for test in row.tests:
            try:
                register.file_of(test, known)
            except ValueError as error:
                wrong.append(f"{row.id}: {error}")
    assert wrong == []


def test_no_row_names_a_test_twice() -> None:
    assert [row.id for row in ROWS if len(set(row.tests)) < len(row.tests)] == []


def test_comments_of_tests_name_rows_that_there_are() -> None:
    series = "|".join(sorted(set(SERIES) - {"A"}))
    known = {row.id for row in ROWS}
    named = {(path.name, found) for path in register.TESTS.rglob("*.py") for found in
             re.findall(rf"\b(?:{series})-\d\d\b", path.read_text()) if path != register.TESTS / "test_register.py"}
    assert {found for found in named if found[1] not in known} == set()


def test_document_is_current() -> None:
    assert register.DOCUMENT.read_text() == register.render(), "run: python -m tests.support.register"


def test_tests_are_found_by_the_row_that_they_prove() -> None:
    assert "test_crossing_rekeys_keep_the_sa_without_the_lowest_nonce" in register.names_proving("CX-01")
    with pytest.raises(KeyError):
        register.names_proving("CX-99")

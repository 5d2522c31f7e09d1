"""The YAML loader: what it refuses, and the exact place that it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipsecd.config.load import MAX_BYTES, MAX_DEPTH, load, parse
from ipsecd.config.problems import MAX_COLLECTED, MAX_PROBLEMS
from ipsecd.errors import ConfigError
from tests.unit.config.support import GOOD, changed, compiled, errors_of, write


@pytest.mark.parametrize(("text", "problem"), [
    ("a: 1\na: 2\n", "f:2:1: a: found this key a second time; the first is at line 1"),
    ("x:\n  a: &q 1\n", "f:2:6: x.a: found an anchor &q; expected none (aliases are refused)"),
    ("x: !!str 1\n", "f:1:4: x: found a tag tag:yaml.org,2002:str; expected a plain value"),
    ("x: {<<: {a: 1}}\n", "f:1:5: x: found a merge key `<<`; expected the keys themselves"),
    ("a: 1\n---\nb: 2\n", "f:2:1: found a second document (`---`); expected one document a file"),
    ("", "f:1:1: found an empty file; expected at least `gateway:` and `peers:`"),
    ("# only a comment\n", "f:1:1: found an empty file; expected at least `gateway:` and `peers:`"),
    ("- a\n", "f:1:1: found a list; expected a mapping with `gateway:`, `peers:` ..."),
    ("x: \"a\\u202eb\"\n", "f:1:4: x: found a control or invisible character; expected printable text on one line"),
    ("a: b\nc: \x01\n", "f:2:4: found a character that YAML does not allow; expected printable text"),
    ("[a]: b\n", "f:1:1: found a list as a key; expected a plain word"),
])
def test_loader_refuses_with_place_and_cure(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert problem in caught.value.problems


@pytest.mark.parametrize("text", ["x: [::/0]\n", "x: {prefix: ::1}\n", "x: [2001:db8::]\n", "x: [a, ::1/128]\n"])
def test_loader_answers_an_unquoted_double_colon_with_quotes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems[0].endswith('expected the IPv6 address in quotes, as in "::/0"')


def test_loader_names_the_alias_and_nothing_else_there(tmp_path: Path) -> None:
    text = changed(('local: [10.1.0.0/16, "2001:db8:1::/48"]', "local: &l [10.1.0.0/16]"),
                   ('remote: [10.2.0.0/16, "2001:db8:2::/48"]', "remote: *l"))
    assert errors_of(tmp_path, text) == [
        "ipsecd.yaml:10:16: peers.hq.children.office.local: found an anchor &l; expected none (aliases are refused)",
        "ipsecd.yaml:11:17: peers.hq.children.office.remote: found an alias; expected the value itself (write it out)",
    ]


def test_loader_stops_at_its_depth_without_using_the_stack() -> None:
    with pytest.raises(ConfigError, match=f"nesting deeper than {MAX_DEPTH}"):
        parse("x: " + "[" * 100, "f")
    # The scanner looks ahead, and from PyYAML 6.0.4 has a limit of its own, which it may meet first.
    with pytest.raises(ConfigError, match=f"nesting deeper than {MAX_DEPTH}|maximum nesting depth"):
        parse("x: " + "[" * 100_000, "f")


def test_loader_refuses_a_file_over_its_size(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 4 MiB"):
        load(path)
    with pytest.raises(ConfigError, match="at most 4 MiB"):
        parse("#" * (MAX_BYTES + 1), "f")


def test_loader_names_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: b\nc: \xff\n")
    with pytest.raises(ConfigError, match=r"f\.yaml:2:1: found bytes that are not UTF-8"):
        load(path)


@pytest.mark.parametrize("character", ["\ud800", "\x00", "\x1b"])
def test_loader_names_a_character_that_no_file_should_hold(character: str) -> None:
    # Half a surrogate pair comes in the JSON of a client that asks for a plan.
    with pytest.raises(ConfigError, match=r"f:2:[45]: found a character that YAML does not allow"):
        parse(f"a: b\nc: x{character}y\n", "f")


def test_loader_does_not_hang_on_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="no regular file"):
        load(path)


def test_loader_says_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        load(tmp_path / "none.yaml")


def test_loader_keeps_every_scalar_as_text() -> None:
    root = parse("a: [no, 22:22, 012, 1_0, 2001-01-01, ~, 0x10, 1e3]\n", "f").root
    assert root["a"] == ["no", "22:22", "012", "1_0", "2001-01-01", "~", "0x10", "1e3"]


PEER = """\
peers:
  NAME:
    address: [203.0.113.9]
    auth: {psk_file: KEYFILE}
    children: {c: {local: [10.1.0.0/16], remote: [10.NUMBER.0.0/16]}}
"""


def test_conf_d_adds_peers_in_the_order_of_file_names(tmp_path: Path) -> None:
    for name, number in (("b", "8"), ("a", "9")):
        text = PEER.replace("NAME", name).replace("NUMBER", number).replace("203.0.113.9", f"203.0.113.{number}")
        write(tmp_path, text, name=f"conf.d/{name}.yaml")
    write(tmp_path, "not: [yaml", name="conf.d/.hidden.yaml")
    loaded = compiled(tmp_path, GOOD)
    assert [p.name for p in loaded.policy.peers] == ["hq", "a", "b"]
    assert [e.name for e in loaded.policy.entries] == ["hq/office", "a/c", "b/c"]


def test_conf_d_errors_name_their_own_file(tmp_path: Path) -> None:
    write(tmp_path, "log: {level: info}\n" + PEER.replace("NAME", "hq").replace("NUMBER", "x"), name="conf.d/a.yaml")
    assert errors_of(tmp_path, GOOD) == [
        "conf.d/a.yaml:1:1: log: found this key in conf.d; expected only `peers` there",
        "conf.d/a.yaml:3:3: peers.hq: found a second peer of this name; the first is at ipsecd.yaml:4",
    ]


def test_file_that_is_a_key_by_mistake_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        parse("correct-horse-battery-staple\n", "f")

    assert refused.value.problems == ["f:1:1: found text; expected a mapping with `gateway:`, `peers:` ..."]


def test_misspelt_children_are_told_what_they_could_be(tmp_path: Path) -> None:
    assert any("did you mean children?" in line for line in errors_of(tmp_path, GOOD.replace("children:", "childs:")))


@pytest.mark.parametrize("line", ["a: 1\n", "k{}: 1\n"])
def test_reading_stops_where_nobody_reads_the_errors_any_more(tmp_path: Path, line: str) -> None:
    lines = errors_of(tmp_path, "".join(line.format(i) for i in range(50_000)))

    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == f"... and {MAX_COLLECTED - MAX_PROBLEMS} more; reading stopped there"

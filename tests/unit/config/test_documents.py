"""The sample, the reference and the schema: valid, whole and current."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ipsecd.causes import CATALOGUE, Cause
from ipsecd.config import model, reference, schema
from ipsecd.config.check import check
from ipsecd.policy import Start
from tests.unit.config.support import compiled, write

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = (ROOT / "etc/ipsecd.yaml").read_text()
MINIMAL = (ROOT / "etc/ipsecd-minimal.yaml").read_text()
KEY_PATH = "/etc/ipsecd/secrets/hq.psk"


@pytest.mark.parametrize("text", [SAMPLE, MINIMAL])
def test_sample_runs_without_a_warning(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text.replace(KEY_PATH, "KEYFILE"))
    assert check(path) == ((), ())


def test_sample_is_a_site_to_site_gateway(tmp_path: Path) -> None:
    policy = compiled(tmp_path, SAMPLE.replace(KEY_PATH, "KEYFILE")).policy
    assert [(c.key.child, c.start) for c in policy.peers[0].children] == [
        ("voice", Start.ON_DEMAND), ("office", Start.ALWAYS)]
    assert [e.name for e in policy.entries] == ["printers", "no-smb", "hq/voice", "hq/office"]


def test_sample_with_its_comments_taken_off_has_only_known_keys(tmp_path: Path) -> None:
    # A commented key that no longer exists, or a default of wrong form, is an error here.
    shown = re.sub(r"(?m)^( *)# ([a-z_]+: [^ ].*|[a-z_]+:)$", r"\1\2", SAMPLE.replace(KEY_PATH, "KEYFILE"))
    shown = re.sub(r"(?m)^( *)#   (local|remote): (\[\{range|\[\{prefix: 10\.2\.9).*$", "", shown)
    shown = shown.replace("      pings:\n", "")
    errors, _ = check(write(tmp_path, shown))
    assert [e for e in errors if "unknown key" in e or "expected a" in e] == []


def test_sample_names_every_key() -> None:
    kinds: list[type[model.Keys]] = [kind for _, kind in reference._SECTIONS]
    missing = {f"{kind.__name__}.{name}" for kind in kinds for name in kind.model_fields
               if not re.search(rf"\b{name}\b", SAMPLE)}
    assert missing == set()


@pytest.mark.parametrize(("name", "text"), [
    ("configuration.md", reference.render()), ("ipsecd.schema.json", schema.render()),
    ("troubleshooting.md", reference.troubleshooting())])
def test_generated_document_is_current(name: str, text: str) -> None:
    assert (ROOT / "docs" / name).read_text() == text, "run: python -m ipsecd.config.reference"


def test_every_cause_has_an_advice_whose_keys_exist() -> None:
    assert set(CATALOGUE) == set(Cause)
    keys = {key for advice in CATALOGUE.values() for key in re.findall(r"(?:peers|gateway)\.[A-Za-z_.]+", advice.hint)}
    known = reference.render()
    assert {key for key in keys if f"`{key.rstrip('.').rpartition('.')[2]}`" not in known} == set()


@pytest.mark.parametrize("text", [SAMPLE, MINIMAL])
def test_schema_accepts_what_the_daemon_accepts(text: str) -> None:
    validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", [
    "gatewayy: {}\n", "peers: {a: {auth: {psk_fil: /x}}}\n", "log: {level: loud}\n", "policies: [{action: protect}]\n",
    "peers: {a: {auth: {}, children: {c: {local: [{prefx: 1}], remote: x}}}}\n",
])
def test_schema_refuses_unknown_keys_and_words(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(yaml.safe_load(text))


def test_schema_takes_one_value_for_a_list() -> None:
    validate({"gateway": {"listen": "192.0.2.1"}, "peers": {"a": {
        "address": "x.example", "auth": {"psk_file": "/x"}, "children": {"c": {"local": "10.0.0.0/8", "remote": [
            {"prefix": "10.0.0.0/8", "protocol": "tcp", "port": 22}, "::/0"]}}}}})


def validate(data: Any) -> None:
    jsonschema.Draft202012Validator(json.loads(schema.render())).validate(data)

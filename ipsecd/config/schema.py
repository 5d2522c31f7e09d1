"""JSON Schema of the configuration, for editors: `python -m ipsecd.config.schema > docs/ipsecd.schema.json`.

It is looser than the daemon, which alone judges; it knows keys, words and forms.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from ipsecd.config.model import Root, SelectorKeys

_DROPPED = frozenset({"title", "default", "x-value", "x-unit", "x-default"})
_SELECTOR = {"$ref": f"#/$defs/{SelectorKeys.__name__}"}


def build() -> dict[str, Any]:
    """Return the schema as plain data."""
    raw = Root.model_json_schema(mode="validation")
    schema = _clean(raw)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ipsecd configuration", **schema}


def render() -> str:
    """Return the text of docs/ipsecd.schema.json."""
    return json.dumps(build(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _clean(node: dict[str, Any] | list[Any] | str | float | None) -> Any:
    """Take pydantic's schema to the file's: no nulls, defaults in words, one value for a list of one."""
    if isinstance(node, list):
        return [_clean(item) for item in node]
    return _clean_mapping(node) if isinstance(node, dict) else node


def _clean_mapping(written: dict[str, Any]) -> dict[str, Any]:
    node = _without_null(written)
    found: dict[str, Any] = {key: _members(item) if key in ("properties", "$defs") else _clean(item)
                             for key, item in node.items() if key not in _DROPPED}
    stated = node.get("x-default")
    if stated is not None and "description" in found:
        found["description"] += f" Default: {shown(stated)}."
    if found.get("type") == "array" and "PolicyKeys" not in str(found["items"]):
        found = _or_one(found)
    return found


def _members(node: dict[str, Any]) -> dict[str, Any]:
    return {name: _clean(item) for name, item in node.items()}


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """Unfold `X | None`: the model's None means that a key is absent, which `null` in the file does not."""
    options = [o for o in node.get("anyOf", []) if o.get("type") != "null"]
    if len(options) != 1:
        return node
    return {**{k: v for k, v in node.items() if k != "anyOf"}, **options[0]}


def _or_one(array: dict[str, Any]) -> dict[str, Any]:
    one = array["items"]
    if one == _SELECTOR:
        one = {"type": "string"}
        array["items"] = {"anyOf": [one, _SELECTOR]}
    kept = {key: array.pop(key) for key in ("description",) if key in array}
    return {**kept, "anyOf": [one, array]}


def shown(default: object) -> str:
    """Return a default as the file would write it."""
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, list):
        return "; ".join(str(item) for item in cast("list[object]", default))
    return str(default)


if __name__ == "__main__":
    sys.stdout.write(render())

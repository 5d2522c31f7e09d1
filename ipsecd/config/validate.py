"""The tree -> models, piece by piece, so that one broken child hides no other error.

pydantic names an error by type and location; here both become the operator's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ipsecd.config import model, values
from ipsecd.config.nodes import Location, Mapping, Node, Sequence, find
from ipsecd.config.problems import Problems

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's own keys, None where they have errors, and those of its children that have none."""

    head: model.PeerHead | None
    children: dict[str, model.ChildKeys]


@dataclass(frozen=True, slots=True)
class Validated:
    """The pieces without errors; `policies` keep their index in the file."""

    gateway: model.GatewayKeys
    defaults: model.DefaultKeys
    control: model.ControlKeys
    metrics: model.MetricsKeys
    log: model.LogKeys
    default_action: str | None
    peers: dict[str, Peer]
    policies: dict[int, model.PolicyKeys]


def validate(root: Mapping, problems: Problems) -> Validated:
    """Return what is well formed; everything else is in `problems`."""
    def section(kind: type[M], key: str) -> M:
        return (_piece(kind, root[key], (key,), problems) if key in root else None) or kind()

    sections = frozenset(model.Root.model_fields) - {"policies_default"}
    top = _piece(model.Root, root.without(sections), (), problems)
    return Validated(
        gateway=section(model.GatewayKeys, "gateway"), defaults=section(model.DefaultKeys, "defaults"),
        control=section(model.ControlKeys, "control"), metrics=section(model.MetricsKeys, "metrics"),
        log=section(model.LogKeys, "log"), default_action=top.policies_default if top else None,
        peers=_peers(root["peers"], problems) if "peers" in root else {},
        policies=_policies(root["policies"], problems) if "policies" in root else {},
    )


def _peers(node: Node, problems: Problems) -> dict[str, Peer]:
    found: dict[str, Peer] = {}
    for name, peer in _named(node, ("peers",), "peer", problems):
        location: Location = ("peers", name)
        if not isinstance(peer, Mapping):
            problems.expected(location, "a mapping with address, auth, children ...")
            continue
        checked = _piece(model.PeerHead, peer.without(frozenset({"children"})), location, problems)
        children: dict[str, model.ChildKeys] = {}
        if "children" in peer:
            for child_name, child in _named(peer["children"], (*location, "children"), "child", problems):
                keys = _piece(model.ChildKeys, child, (*location, "children", child_name), problems)
                if keys is not None:
                    children[child_name] = keys
        found[name] = Peer(checked, children)
    return found


def _policies(node: Node, problems: Problems) -> dict[int, model.PolicyKeys]:
    if not isinstance(node, Sequence):
        problems.expected(("policies",), "a list of entries, each with name and action")
        return {}
    found = ((i, _piece(model.PolicyKeys, item, ("policies", i), problems)) for i, item in enumerate(node))
    return {i: keys for i, keys in found if keys is not None}


def _named(node: Node, location: Location, what: str, problems: Problems) -> list[tuple[str, Node]]:
    if not isinstance(node, Mapping):
        problems.expected(location, f"a mapping of {what} names")
        return []
    good: list[tuple[str, Node]] = []
    for name, item in node.items():
        try:
            # A key is as open to YAML 1.1's guesses as a value: a peer called `no` would be False elsewhere.
            if name.lower() in values.YAML_1_1_WORDS:
                raise ValueError("another name, because YAML 1.1 reads this word as no text")
            values.name(name)
        except ValueError as error:
            problems.key((*location, name), f"found this name; expected {error}")
        good.append((name, item))
    return good


def _piece(kind: type[M], node: Node, location: Location, problems: Problems) -> M | None:
    try:
        return kind.model_validate(node, strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            if problems.full:
                break
            _report(kind, node, location, detail, problems)
        return None


def _report(kind: type[BaseModel], node: Node, prefix: Location, detail: ErrorDetails, problems: Problems) -> None:
    # A selector written as text was validated as {prefix: text}; its place in the file is one step shorter.
    inner = detail["loc"]
    _, _, taken = find(node, inner)
    if detail["type"] == "missing":
        problems.error((*prefix, *inner), "found nothing; expected this key, which is required")
        return
    location = (*prefix, *inner[:taken])
    if detail["type"] == "extra_forbidden":
        # `children` of a peer are validated apart from it, but it is a key of a peer all the same.
        known = _keys_at(model.PeerKeys if kind is model.PeerHead else kind, inner[:-1])
        near = values.suggest(str(inner[-1]), known)
        problems.key(location, f"found an unknown key; expected one of {', '.join(known)}{near}")
    else:
        problems.expected(location, _expected(detail))


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "model_type" | "model_attributes_type" | "dict_type":
            return "a mapping"
        case "list_type":
            return "a list"
        case "too_short":
            return f"at least {context['min_length']} item"
        case "too_long":
            return f"at most {context['max_length']} items"
        case _:
            return detail["msg"]


def _keys_at(kind: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that are known where an unknown one was found."""
    current: type[BaseModel] | None = kind
    for step in location:
        if isinstance(step, str) and current is not None:
            field = current.model_fields.get(step)
            current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `list[Annotated[SelectorKeys, ...]] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType, list, dict):
        return next((found for found in map(_model_in, get_args(annotation)) if found), None)
    return None

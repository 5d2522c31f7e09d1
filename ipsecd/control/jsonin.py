"""Reading JSON that a client sent: bounded depth, no duplicate keys, no NaN, then a strict model."""

from __future__ import annotations

import json
import re
from typing import NoReturn, TypeVar

from pydantic import ValidationError

from ipsecd.control.schema import Request
from ipsecd.text import printable

MAX_DEPTH = 32                      # requests are two levels deep; the parser recurses for each level

# A string takes what follows it even without its closing quote: else each quote would be searched for an end again.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_R = TypeVar("_R", bound=Request)


class BadRequest(Exception):
    """A request that cannot be understood; the text says what is wrong and quotes nothing at length."""


def parse_request(body: bytes, model: type[_R]) -> _R:
    """Return a request; an empty body is an empty object.  Raises BadRequest."""
    try:
        _check_depth(body)
        value = json.loads(body.decode() or "{}", object_pairs_hook=_unique, parse_constant=_no_constant)
        return model.model_validate(value)
    except ValidationError as error:
        raise BadRequest("; ".join(_line(e["loc"], e["msg"]) for e in error.errors(include_input=False))) from None
    except ValueError as error:     # JSONDecodeError, UnicodeDecodeError, integers of 5,000 digits
        raise BadRequest(f"not the JSON that was expected: {printable(str(error))}") from None


def _check_depth(body: bytes) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(body):
        token = match[0][:1]
        depth += token in b"[{"
        depth -= token in b"]}"
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _line(place: tuple[int | str, ...], message: str) -> str:
    return printable(f"{'.'.join(str(p) for p in place) or 'request'}: {message}")

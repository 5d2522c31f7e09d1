"""`ipsecd --check FILE`: everything wrong with a file, without running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ipsecd.config.compile import load_policy
from ipsecd.errors import ConfigError
from ipsecd.policy import Policy


def check(path: Path, *, credentials_directory: str | None = None,
          look_at_host: Callable[[Policy], tuple[str, ...]] = lambda _: ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (errors, warnings), each a printable line; no errors means that the file would run.

    `look_at_host` adds what on this host stands in the way of the policy.
    """
    try:
        loaded = load_policy(path, credentials_directory=credentials_directory)
    except ConfigError as error:
        return tuple(error.problems), ()
    return (), loaded.warnings + look_at_host(loaded.policy)

"""A reload in words: what becomes of the policy, of the settings, and what only a restart changes."""

from __future__ import annotations

from ipsecd.config.compile import Loaded
from ipsecd.config.diff import diff, plan_lines
from ipsecd.config.settings import changed_settings

# The settings that `plan` speaks of, by the key that an operator knows, and whether a restart is needed.
_KEYS = {
    "control_socket": ("control.socket", True),
    "admins": ("control.admins", False),
    "state_directory": ("gateway.state", True),
    "metrics_listen": ("metrics.listen", True),
    "log_level": ("log.level", False),
    "log_format": ("log.format", True),
    "engine": ("gateway.engine", True),
}


def change_lines(old: Loaded, new: Loaded) -> list[str]:
    """Return what a reload from `old` to `new` would do, as lines for people."""
    changes = diff(old.policy, new.policy)
    policy = plan_lines(changes, old.policy, new.policy, ())
    settings = [f"~ {key} changed; " + ("needs a restart of the daemon, a reload refuses it" if fixed else
                                        "applied to what runs, nothing is disturbed")
                for key, fixed in _changed(old, new)]
    return [*settings, *policy] if changes or not settings else settings


def needs_restart(old: Loaded, new: Loaded) -> list[str]:
    """Return why a reload must refuse `new`: some settings hold while the daemon runs, saying so beats ignoring it."""
    problems = [f"{key} takes effect at a restart only" for key, fixed in _changed(old, new) if fixed]
    if old.policy.domain != new.policy.domain:
        problems.insert(0, "gateway.interface, mark, tables and priority take effect at a restart only")
    return problems


def _changed(old: Loaded, new: Loaded) -> list[tuple[str, bool]]:
    return [_KEYS[name] for name in changed_settings(old.settings, new.settings)]

"""Settings: what a configuration says about the daemon itself and not about the policy."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ipsecd.config import defaults as d


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the daemon is reached, keeps its state, and how it logs.

    `secret_sources` names the files and credentials ("credential:NAME") that hold keys, never a key.
    """

    control_socket: str
    admins: tuple[str, ...]
    state_directory: str
    metrics_listen: tuple[str, int] | None
    log_level: str              # debug, info, warning, error
    log_format: str             # auto, json, text
    engine: str                 # auto, native, python; reference is python
    secret_sources: frozenset[str]


def state_directory(control_socket: str) -> str:
    """Return the directory of the last accepted policy that goes with a control socket.

    It follows from the socket, so that two daemons on one host share nothing.  /run is lost at a reboot and the
    state must not be, so sockets in the runtime directory have theirs in the state directory of the service.
    """
    base = control_socket.removesuffix(".sock")
    if base.startswith(d.RUNTIME_DIRECTORY):
        return d.STATE_DIRECTORY + base.removeprefix(d.RUNTIME_DIRECTORY)
    return f"{base}.state"


def changed_settings(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return the names of the settings that differ, for the plan; where keys are read from is the peers' matter."""
    names = (f.name for f in fields(Settings) if f.name != "secret_sources")
    return tuple(name for name in names if getattr(old, name) != getattr(new, name))

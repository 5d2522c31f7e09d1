"""The state directory: the routing plan of the last accepted policy, for the boot before today's file is read.

It holds addresses and interface names, no secrets; still nobody else needs them.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipsecd.errors import LocalError
from ipsecd.guard_plan import GuardPlan
from ipsecd.policy import RoutingDomain
from ipsecd.routing_plan import Device, DeviceRoute, RoutingPlan, Rule, UnreachableRoute

FORMAT = 2
_FILE = "plan.json"
MAX_BYTES = 64 << 20                                # 100,000 selectors are under 20 MiB


class StateError(LocalError):
    """The state directory cannot be read or written, or holds something else."""


def save_plan(directory: Path, plan: RoutingPlan) -> None:
    """Replace the stored plan so that a crash leaves the old one or the new one; raises StateError."""
    target = directory / _FILE
    fresh = directory / f".{_FILE}.{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "plan": asdict(plan)}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        _sync_directory(directory)
    except OSError as e:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise StateError(f"{target}: {e.strerror}") from e


def load_plan(directory: Path) -> RoutingPlan | None:
    """Return the stored plan, None where there is none; raises StateError for one that cannot be used."""
    target = directory / _FILE
    try:
        if target.stat().st_size > MAX_BYTES:
            raise StateError(f"{target}: over {MAX_BYTES} bytes")
        stored = json.loads(target.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise StateError(f"{target}: format {stored['format']}, this version reads {FORMAT}")
        return _plan(stored["plan"])
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StateError(f"{target}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise StateError(f"{target}: not a stored plan ({e})") from e


def note_directory(root: Path, config: Path, directory: Path) -> None:
    """Note under `root` where the last accepted policy of a configuration file is; raises StateError.

    A file that cannot be read any more tells nobody which state directory it named.
    """
    note = root / _note_name(config)
    fresh = root / f".{note.name}.{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(directory.absolute())
        fresh.replace(note)
    except OSError as e:
        raise StateError(f"{note}: {e.strerror}") from e


def noted_directory(root: Path, config: Path) -> Path | None:
    """Return what note_directory noted, None where it did not."""
    try:
        return (root / _note_name(config)).readlink()
    except OSError:
        return None


def remove_plan(directory: Path) -> None:
    """Forget the stored plan (`ipsecctl flush`)."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _FILE).unlink()


def _note_name(config: Path) -> str:
    """Return a name that is no state directory's: two daemons may share `root`."""
    return f"of{str(config.absolute()).replace('/', '-')}"


def _plan(stored: dict[str, Any]) -> RoutingPlan:
    return RoutingPlan(
        domain=RoutingDomain(**stored["domain"]),
        devices=tuple(Device(**d | {"sysctls": tuple((key, value) for key, value in d["sysctls"])})
                      for d in stored["devices"]),
        rules=tuple(Rule(**r) for r in stored["rules"]),
        routes=tuple(DeviceRoute(**r) for r in stored["routes"]),
        unreachable=tuple(UnreachableRoute(**r) for r in stored["unreachable"]),
        guard=GuardPlan(**stored["guard"]))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

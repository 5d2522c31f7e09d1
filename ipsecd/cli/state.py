"""Where the last accepted policy is, also when today's configuration cannot be read any more.

The guard at boot must find it whatever stands in the file: the tree says where as far as it parses, else the text does.
"""

from __future__ import annotations

import re
from pathlib import Path

from ipsecd.config import defaults
from ipsecd.config.load import load_into
from ipsecd.config.nodes import Location, Mapping, Text, find
from ipsecd.config.problems import Problems
from ipsecd.config.settings import state_directory
from ipsecd.runtime.state import noted_directory

_SOCKET = re.compile(r"""\bsocket\s*:\s*["']?([^\s"',}#]+)""")
_STATE = re.compile(r"""\bstate\s*:\s*["']?([^\s"',}#]+)""")


def find_state(config: Path, noted_under: str | None = None) -> Path:
    """Return the state directory of the daemon that runs `config`; `noted_under` is the service's STATE_DIRECTORY."""
    noted = noted_directory(Path(noted_under), config) if noted_under else None
    if noted is not None:
        return noted
    document = load_into(config, Problems())
    if document is not None:
        state, socket = _text(document.root, ("gateway", "state")), _text(document.root, ("control", "socket"))
    else:
        text = _read(config)
        state, socket = _first(_STATE, text), _first(_SOCKET, text)
    return Path(state or state_directory(socket or defaults.CONTROL_SOCKET))


def _text(root: Mapping, location: Location) -> str | None:
    node, _, taken = find(root, location)
    return str(node) if isinstance(node, Text) and taken == len(location) else None


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

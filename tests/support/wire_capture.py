"""Loads the datagrams of tests/vectors/ike_ccm12_capture.txt."""

from __future__ import annotations

from pathlib import Path

_FILE = Path(__file__).parents[1] / "vectors" / "ike_ccm12_capture.txt"


def datagrams() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    name = ""
    for line in _FILE.read_text().splitlines():
        if line.startswith("    "):
            found[name] = found.get(name, b"") + bytes.fromhex(line)
        elif line and not line.startswith("#"):
            name = line
    return found

"""Loads tests/vectors/*.txt: sections "[name]" of "field = hex" lines; indented lines continue a value, # comments."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "vectors"


def load(file: str) -> dict[str, dict[str, bytes]]:
    """Return section -> field -> bytes."""
    found: dict[str, dict[str, str]] = {}
    section, field = "", ""
    for line in (_FOLDER / file).read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = {}
        elif line[0].isspace():
            found[section][field] += line.strip()
        else:
            field, _, value = (part.strip() for part in line.partition("="))
            found[section][field] = value
    return {name: {key: bytes.fromhex(value) for key, value in fields.items()} for name, fields in found.items()}

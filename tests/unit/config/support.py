"""Writes configurations into a test's directory and compiles them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.config.compile import Loaded, load_policy
from ipsecd.errors import ConfigError

KEY = bytes(range(32))

GOOD = """\
gateway:
  identity: branch-a.example.net
peers:
  hq:
    address: [198.51.100.2]
    identity: hq.example.net
    auth: {psk_file: KEYFILE}
    children:
      office:
        local: [10.1.0.0/16, "2001:db8:1::/48"]
        remote: [10.2.0.0/16, "2001:db8:2::/48"]
"""


def write(directory: Path, text: str, *, name: str = "ipsecd.yaml", mode: int = 0o640) -> Path:
    """Write a configuration whose KEYFILE is a good key."""
    key = directory / "good.psk"
    if not key.exists():
        key.write_bytes(KEY)
        key.chmod(0o600)
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("KEYFILE", str(key)))
    path.chmod(mode)
    return path


def compiled(directory: Path, text: str, **kwargs: int) -> Loaded:
    """Write and load."""
    return load_policy(write(directory, text, **kwargs), credentials_directory=None)  # type: ignore[arg-type]


def errors_of(directory: Path, text: str, **kwargs: int) -> list[str]:
    """Return the errors of a text, less the directory's name."""
    path = write(directory, text, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        load_policy(path, credentials_directory=None)
    assert caught.value.__cause__ is None
    return [line.replace(f"{directory}/", "") for line in caught.value.problems]


def changed(*replacements: tuple[str, str], base: str = GOOD) -> str:
    """Return the good configuration with pieces exchanged; each piece must be there."""
    text = base
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text

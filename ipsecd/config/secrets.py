"""Pre-shared keys and the files of others: where they are read, in which forms, and how weak one may be.

No message of this module holds a key or a part of it.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from ipsecd.config import defaults as d
from ipsecd.config.files import read_regular
from ipsecd.config.model import AuthKeys
from ipsecd.secret import Secret

PLACEHOLDER = Secret(b"")           # stands for a key that was not read; such a policy is shown, never applied


class FileSecrets:
    """Reads keys for a configuration that is to run.

    `credentials_directory` is systemd's $CREDENTIALS_DIRECTORY, None without one.
    """

    def __init__(self, credentials_directory: str | None) -> None:
        self._credentials = credentials_directory

    def read(self, source: AuthKeys, *, inline: bool) -> Secret | None:
        """Return the key; raise ValueError with a whole message.  `inline` allows `psk:`."""
        if source.psk is not None:
            if not inline:
                raise ValueError("found a key inside the file; expected the file's mode to be 0600, or psk_file")
            return decode(source.psk.reveal())
        return decode(_read_file(self._path(source), d.MAX_PSK_BYTES + 1))      # room for a newline

    def may_read(self, path: str) -> bool:
        """Return whether a path may be opened: any that the operator wrote."""
        del path
        return True

    def read_file(self, path: str, *, secret: bool) -> bytes | None:
        """Return a certificate, key or list; raise ValueError with a whole message.  `secret` checks owner and mode."""
        return read_credential(Path(path), secret=secret)

    def _path(self, source: AuthKeys) -> Path:
        if source.psk_file is not None:
            return Path(source.psk_file)
        if self._credentials is None:
            raise ValueError("found no $CREDENTIALS_DIRECTORY; expected the service manager to set it "
                             "(LoadCredential= in the unit)")
        return Path(self._credentials) / str(source.psk_credential)


class KnownSecrets:
    """Reads keys for a plan: only files and credentials that the running configuration names already.

    The text comes from whoever may use the control socket, and the daemon reads more files than its callers may:
    opening a path of theirs would tell them that it exists and what is wrong with it.  Another source answers None.
    """

    def __init__(self, known: frozenset[str], credentials_directory: str | None) -> None:
        self._known = known
        self._files = FileSecrets(credentials_directory)

    def read(self, source: AuthKeys, *, inline: bool) -> Secret | None:
        """Return the key, or None where it is not read; raise ValueError as `FileSecrets` does."""
        if source.psk is None and source_name(source) not in self._known:
            return None
        return self._files.read(source, inline=inline)

    def may_read(self, path: str) -> bool:
        """Return whether the running configuration names this path, or the directory that it stands in."""
        if path in self._known:
            return True
        return path.startswith("/") and Path(path).name != ".." and str(Path(path).parent) in self._known

    def read_file(self, path: str, *, secret: bool) -> bytes | None:
        """Return a file's bytes, or None where it is not read; raise ValueError as `FileSecrets` does."""
        return self._files.read_file(path, secret=secret) if self.may_read(path) else None


class NoSecrets:
    """Reads no key: for the guard at boot, which needs none."""

    def read(self, source: AuthKeys, *, inline: bool) -> Secret | None:
        """Return None."""
        del source, inline
        return None

    def may_read(self, path: str) -> bool:
        """Return False."""
        del path
        return False

    def read_file(self, path: str, *, secret: bool) -> bytes | None:
        """Return None."""
        del path, secret
        return None


SecretReader = FileSecrets | KnownSecrets | NoSecrets


def source_name(source: AuthKeys) -> str | None:
    """Return what names the key's place: a path, "credential:NAME", or None for a key written inline."""
    if source.psk_file is not None:
        return source.psk_file
    return f"credential:{source.psk_credential}" if source.psk_credential is not None else None


def read_credential(path: Path, *, secret: bool) -> bytes:
    """Return the bytes of a certificate or key; raise ValueError with a whole message."""
    if secret:
        return _read_file(path, d.MAX_CREDENTIAL_BYTES)
    try:
        data, _ = read_regular(path, d.MAX_CREDENTIAL_BYTES)
    except ValueError as error:
        raise ValueError(f"found a file that cannot be read ({error}); expected a readable file") from None
    if len(data) > d.MAX_CREDENTIAL_BYTES:
        raise ValueError(f"found a file of more than {d.MAX_CREDENTIAL_BYTES} bytes; expected certificates or a list")
    return data


def _read_file(path: Path, limit: int) -> bytes:
    """Read a key's file.  The open descriptor is checked, not the name, which may point elsewhere a moment later.

    Symbolic links are followed: the check of owner and mode holds for what was opened.
    """
    try:
        data, status = read_regular(path, limit)
    except ValueError as error:
        raise ValueError(f"found a key that cannot be read ({error}); expected a readable file") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o027:
        raise ValueError(f"found mode {mode:04o}; expected no group-write and nothing for others, such as 0640 or 0600")
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(f"found owner uid {status.st_uid}; expected root or the daemon's own user")
    return data


def decode(raw: bytes) -> Secret:
    """Return the key that a file holds: less one trailing newline, `0x` hex and `0s` base64 decoded."""
    data = raw[:-1] if raw.endswith(b"\n") else raw
    if data.endswith(b"\r"):
        raise ValueError("found a key that ends with a carriage return; expected Unix line ends")
    if len(data) > d.MAX_PSK_BYTES:
        raise ValueError(f"found a key of more than {d.MAX_PSK_BYTES} bytes; expected a shorter one")
    try:
        if data[:2] in (b"0x", b"0X"):
            data = binascii.unhexlify(data[2:])
        elif data[:2] in (b"0s", b"0S"):
            data = base64.b64decode(data[2:], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("found a key that begins with 0x or 0s; expected hex or base64 after it") from None
    return Secret(data)


def check_strength(key: Secret, *, weak: bool) -> str | None:
    """Return a warning for a short key; raise ValueError for one that is refused (RFC 7296 2.15)."""
    count = len(key)
    if not count:
        raise ValueError("found an empty key; expected 32 random bytes")
    if len(frozenset(key.reveal())) == 1:
        raise ValueError("found a key of one repeated byte; expected 32 random bytes")
    if count < d.MIN_PSK_BYTES and not weak:
        raise ValueError(f"found a key of {count} bytes; expected at least {d.MIN_PSK_BYTES} bytes (32 random ones are "
                         "right), or weak_psk: true")
    if count < d.WARN_PSK_BYTES:
        return (f"the key has {count} bytes; whoever sees a handshake can guess a short one offline, 32 random bytes "
                "are right")
    return None

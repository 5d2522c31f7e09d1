"""`ppk` of a peer -> Ppk: the post-quantum pre-shared key from its file (RFC 8784)."""

from __future__ import annotations

from ipsecd.config import defaults as d
from ipsecd.config import model
from ipsecd.config.nodes import Location
from ipsecd.config.problems import Problems
from ipsecd.config.secrets import PLACEHOLDER, SecretReader, decode
from ipsecd.policy import Ppk
from ipsecd.secret import Secret


def compile_ppk(at: Location, keys: model.PpkKeys | None, *, reader: SecretReader, problems: Problems) -> Ppk | None:
    """Return the key, None without one; with errors, or where it is not to be read, it is empty."""
    if keys is None:
        return None
    key = PLACEHOLDER
    try:
        data = reader.read_file(keys.file, secret=True)
        key = PLACEHOLDER if data is None else _checked(decode(data))
    except ValueError as error:
        problems.error((*at, "file"), str(error))
    return Ppk(keys.id.encode(), key, keys.required is not False)


def _checked(key: Secret) -> Secret:
    # RFC 8784 6: a quantum computer halves the bits that count.
    if len(key) < d.MIN_PPK_BYTES or len(frozenset(key.reveal())) == 1:
        raise ValueError(f"found a key of {len(key)} bytes, or of one repeated byte; expected at least "
                         f"{d.MIN_PPK_BYTES} random bytes")
    return key

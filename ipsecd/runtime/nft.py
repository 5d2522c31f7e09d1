"""libnftables in this process: the parser and netlink code of `nft` itself, without a fork.

A context keeps its netlink socket for as long as it lives.  That matters for a table with `flags owner`: it belongs to
the socket that made it, cannot be flushed by others, and goes with it.
"""

from __future__ import annotations

import ctypes
import json
import re
import threading
from typing import Any

from ipsecd.errors import LocalError
from ipsecd.guard_plan import Standing

_LIBRARY = "libnftables.so.1"                       # Debian: libnftables1, a dependency of nftables
_OUTPUT_STATELESS = 1 << 2                          # no counter values: two listings of one state are equal
_OUTPUT_JSON = 1 << 4
_OUTPUT_TERSE = 1 << 11                             # no elements of sets
_CHAIN, _SET = (re.compile(rf"^\t{kind} (\S+) {{$", re.MULTILINE) for kind in ("chain", "set"))
_lock = threading.Lock()                            # bison and flex state is per context; the rest is not documented


class NftError(LocalError):
    """nft refused a command; the text is its own."""


class Nft:
    """One libnftables context in the network namespace of the thread that makes it.  Close it when done."""

    def __init__(self) -> None:
        try:
            self._library = _load()
        except OSError as e:
            raise NftError(f"{_LIBRARY} is missing: install nftables ({e})") from e
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NftError("nft_ctx_new failed")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        """Run nft text as one transaction and return its output; raises NftError, and then nothing changed."""
        return self._run(text, 0)

    def listing(self, table: str) -> str:
        """Return a table of family inet as text without counter values, empty where there is none."""
        try:
            return self._run(f"list table inet {table}", _OUTPUT_STATELESS)
        except NftError:
            return ""

    def standing(self, table: str) -> Standing:
        """Return the names of chains and sets of a table of family inet, none where there is none."""
        try:
            text = self._run(f"list table inet {table}", _OUTPUT_STATELESS | _OUTPUT_TERSE)
        except NftError:
            return Standing()
        return Standing(tuple(_CHAIN.findall(text)), tuple(_SET.findall(text)))

    def counters(self, table: str) -> list[dict[str, Any]]:
        """Return the named counters of a table of family inet, empty where there is none."""
        try:
            found = json.loads(self._run(f"list counters table inet {table}", _OUTPUT_JSON))
        except NftError:
            return []
        return [item["counter"] for item in found["nftables"] if "counter" in item]

    def close(self) -> None:
        """Free the context; tables that it owned are gone."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, text: str, flags: int) -> str:
        if not self._context:
            raise NftError("the context is closed")
        with _lock:
            self._library.nft_ctx_output_set_flags(self._context, flags)
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(error.decode(errors="replace").strip() or "nft failed without a word")
        return bytes(output).decode()


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    context = ctypes.c_void_p
    library.nft_ctx_new.restype = context
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_get_output_buffer",
                 "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [context]
    library.nft_ctx_free.restype = None
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    return library

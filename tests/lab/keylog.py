"""ipsecd that writes its keys to a file: for tests that let tshark read what crossed the WAN, and for nothing else.

    daemon.start(before=keylog(file))
    tables(file)                             # as tshark wants them

Run as a script: keylog.py FILE PROGRAM ARGUMENTS runs the daemon with those arguments, in place of PROGRAM.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ENCR = {"aes128gcm16": "AES-GCM", "aes192gcm16": "AES-GCM", "aes256gcm16": "AES-GCM",
         "aes128": "AES-CBC", "aes192": "AES-CBC", "aes256": "AES-CBC"}
_ESP_ENCR = {"AES-GCM": "AES-GCM with 16 octet ICV [RFC4106]", "AES-CBC": "AES-CBC [RFC3602]"}
_INTEG = {"sha256": "SHA-256-128", "sha384": "SHA-384-192", "sha512": "SHA-512-256"}


def keylog(file: Path) -> tuple[str, ...]:
    """Return what stands before the daemon's command line."""
    return sys.executable, __file__, str(file)


def tables(file: Path) -> list[str]:
    """Return tshark's options for the keys in a file: ESP SAs and IKE SAs."""
    options = []
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        encr, integ = _ENCR[entry["encr"]], entry["integ"]
        if "spi" in entry:
            auth = f"HMAC-{_INTEG[integ]} [RFC4868]" if integ else "NULL"
            texts = ("IPv4", "*", "*", "0x" + entry["spi"], _ESP_ENCR[encr], _hex(entry["encr_key"]), auth,
                     _hex(entry["integ_key"]))
            row = [f'"{text}"' for text in texts]
            options += ["-o", "uat:esp_sa:" + ",".join(row)]
        else:
            bits = "".join(c for c in entry["encr"].removesuffix("gcm16") if c.isdigit())
            name = (f"AES-GCM-{bits} with 16 octet ICV [RFC5282]" if encr == "AES-GCM" else
                    f"AES-CBC-{bits} [RFC3602]")
            auth = f"HMAC_SHA2_{_INTEG[integ][4:].replace('-', '_')} [RFC4868]" if integ else "NONE [RFC4306]"
            row = [entry["spi_i"], entry["spi_r"], entry["sk_ei"], entry["sk_er"], f'"{name}"', entry["sk_ai"],
                   entry["sk_ar"], f'"{auth}"']
            options += ["-o", "uat:ikev2_decryption_table:" + ",".join(row)]
    return options


def integrity_keys(file: Path) -> dict[int, bytes]:
    """Return the integrity key of each SA, by its SPI."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return {int(entry["spi"], 16): bytes.fromhex(entry["integ_key"]) for entry in entries if "spi" in entry}


def _hex(key: str) -> str:
    return f"0x{key}" if key else ""


def _run(file: str, arguments: list[str]) -> None:
    """Run the daemon with two functions wrapped: where IKE keys are made, where pairs are handed to an engine."""
    from ipsecd.cli.ipsecd import main
    from ipsecd.ike.crypto import keymat
    from ipsecd.runtime.driver import Driver

    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    derive, attach = keymat._from_skeyseed, Driver.attach

    def write(**entry: str) -> None:
        os.write(descriptor, json.dumps(entry).encode() + b"\n")

    def derived(suite: Any, skeyseed: bytes, seed: bytes) -> Any:
        keys = derive(suite, skeyseed, seed)
        write(spi_i=seed[-16:-8].hex(), spi_r=seed[-8:].hex(), encr=suite.encr.keyword,
              integ=suite.integ.keyword if suite.integ else "",
              **{name: getattr(keys, name).reveal().hex() for name in ("sk_ei", "sk_er", "sk_ai", "sk_ar")})
        return keys

    def attached(driver: Driver, engine: Any) -> None:
        made = type(engine)
        made.install_sa = _logged(made.install_sa, write)
        attach(driver, engine)

    keymat._from_skeyseed = derived
    Driver.attach = attached                             # type: ignore[method-assign]
    sys.argv = ["ipsecd", *arguments]
    main()


def _logged(install: Callable[[Any, Any], None], write: Callable[..., None]) -> Callable[[Any, Any], None]:
    def install_sa(engine: Any, pair: Any) -> None:
        for spec in (pair.inbound, pair.outbound):
            write(spi=f"{spec.spi:08x}", encr=pair.suite.encr.keyword if pair.suite.key_bytes[0] else "",
                  integ=pair.suite.integ.keyword if pair.suite.integ else "",
                  encr_key=spec.encr_key.reveal().hex(), integ_key=spec.integ_key.reveal().hex())
        install(engine, pair)
    return install_sa


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[3:])

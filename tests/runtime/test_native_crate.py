"""The native engine's own tests.  What clippy and rustfmt say of it is a matter of scripts/lint."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipsecd.engine.native_selftest import self_test
from tests.lab.no_crypto import NO_CRYPTO

CRATE = Path(__file__).parents[2] / "ipsecd/engine/native"
BUILD_S = 900                                      # a cold build of the libraries, on a slow machine


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The build of the package names the interpreter likewise; another name would build everything anew.
    environment = {**os.environ, "PYO3_PYTHON": sys.executable}
    return subprocess.run(("cargo", *arguments), cwd=CRATE, env=environment, capture_output=True, text=True,
                          check=False)


@pytest.fixture(scope="module", autouse=True)
def crates_at_hand() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("no cargo")
    if cargo("fetch", "--locked").returncode:
        pytest.skip("the crates cannot be fetched")


@pytest.mark.timeout(BUILD_S)
def test_crate_passes_its_own_tests() -> None:
    done = cargo("test", "--locked", "--no-default-features")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.timeout(BUILD_S)
def test_build_without_ciphers_is_refused_by_its_name_and_by_the_self_test() -> None:
    assert NO_CRYPTO.build() == ""
    spec = importlib.util.spec_from_file_location("ipsecd.engine._native", NO_CRYPTO.file)
    assert spec is not None
    with pytest.raises(ImportError, match="PyInit__native"):
        importlib.util.module_from_spec(spec)
    assert "aes256gcm16: what it sealed is not what it must be" in self_test(NO_CRYPTO.load())


def test_files_of_the_crate_stay_small_and_its_unsafe_code_in_one() -> None:
    for file in sorted(CRATE.glob("src/*.rs")):
        text = file.read_text()
        assert len(text.splitlines()) <= 400, file
        assert "unsafe " not in text or file.name == "sys.rs", file

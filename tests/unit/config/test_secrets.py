"""Pre-shared keys: forms, strength, file checks; and that no key is ever shown."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from ipsecd.config.compile import compile_accepted, compile_text, load_policy
from ipsecd.config.diff import diff
from ipsecd.config.secrets import decode
from ipsecd.errors import ConfigError
from tests.unit.config.support import GOOD, KEY, changed, compiled, errors_of, write

AUTH = "auth: {psk_file: KEYFILE}"
SECRET = "correct horse battery staple 0123456789"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")


@pytest.mark.parametrize(("raw", "key"), [
    (b"secret", b"secret"), (b"secret\n", b"secret"), (b"secret\n\n", b"secret\n"), (b" secret ", b" secret "),
    (b"0x736563726574\n", b"secret"), (b"0sc2VjcmV0", b"secret"), (b"\x00\xff\n", b"\x00\xff"),
])
def test_key_forms_decode(raw: bytes, key: bytes) -> None:
    assert decode(raw).reveal() == key


@pytest.mark.parametrize("raw", [b"0xabc", b"0xzz", b"0s!!!!", b"0sabc", b"secret\r\n", b"x" * 5000])
def test_key_that_does_not_decode_is_refused_without_showing_it(raw: bytes) -> None:
    with pytest.raises(ValueError, match="found a key") as caught:
        decode(raw)
    assert raw[2:-1].decode() not in str(caught.value)


@pytest.mark.parametrize(("raw", "problem"), [
    (b"", "found an empty key"), (b"\n", "found an empty key"), (b"a" * 36, "repeated byte"),
    (b"0x" + b"00" * 32, "repeated byte"), (b"fifteen bytes..", "found a key of 15 bytes"),
])
def test_weak_key_is_refused(raw: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "good.psk").write_bytes(raw)
    (tmp_path / "good.psk").chmod(0o640)
    found = errors_of(tmp_path, GOOD)
    assert len(found) == 1
    assert found[0].startswith("ipsecd.yaml:7:22: peers.hq.auth.psk_file: ")
    assert problem in found[0]


def test_short_key_is_a_warning_with_weak_psk_and_below_32_bytes(tmp_path: Path) -> None:
    (tmp_path / "good.psk").write_bytes(b"tiny")
    (tmp_path / "good.psk").chmod(0o600)
    loaded = compiled(tmp_path, changed((AUTH, "auth: {psk_file: KEYFILE, weak_psk: true}")))
    assert "the key has 4 bytes" in loaded.warnings[0]
    (tmp_path / "good.psk").write_bytes(bytes(range(31)))
    assert "the key has 31 bytes" in compiled(tmp_path, GOOD).warnings[0]


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o601, 0o666])
def test_key_file_of_open_mode_is_refused(mode: int, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "good.psk").chmod(mode)
    assert f"found mode {mode:04o}; expected no group-write" in errors_of(tmp_path, GOOD)[0]


@needs_root
def test_key_file_of_another_owner_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    os.chown(tmp_path / "good.psk", 4242, 0)
    assert "found owner uid 4242; expected root" in errors_of(tmp_path, GOOD)[0]


def test_key_file_that_is_a_directory_fifo_or_absent_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("fifo", "."):
        assert "no regular file" in errors_of(tmp_path, changed(("KEYFILE", str(tmp_path / name))))[0]
    assert "cannot be read (No such file" in errors_of(tmp_path, changed(("KEYFILE", "/nonexistent")))[0]


def test_credential_is_read_from_the_credentials_directory(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "hq.psk").write_bytes(KEY[::-1])
    (credentials / "hq.psk").chmod(0o400)
    path = write(tmp_path, changed((AUTH, "auth: {psk_credential: hq.psk}")))
    loaded = load_policy(path, credentials_directory=str(credentials))
    assert loaded.policy.peers[0].psk.reveal() == KEY[::-1]
    assert loaded.settings.secret_sources == {"credential:hq.psk"}
    path = write(tmp_path, changed((AUTH, "auth: {psk_credential: ../good.psk}")))
    with pytest.raises(ConfigError, match="expected a name"):
        load_policy(path, credentials_directory=str(credentials))


def test_inline_key_needs_a_private_file(tmp_path: Path) -> None:
    text = changed((AUTH, f"auth: {{psk: {SECRET}}}"))
    assert compiled(tmp_path, text, mode=0o600).policy.peers[0].psk.reveal() == SECRET.encode()
    for mode in (0o640, 0o400, 0o644):
        assert "expected the file's mode to be 0600" in errors_of(tmp_path, text, mode=mode)[0]


@pytest.mark.parametrize("text", [
    changed((AUTH, f"auth: {{psk: {SECRET}}}")),
    changed((AUTH, f"auth: {{psk: {SECRET}, psk_file: {SECRET}}}")),
    changed((AUTH, f"auth: {SECRET}")),
    changed((AUTH, f"auth: {{psk: [{SECRET}], weak_psk: {SECRET}}}")),
    changed((AUTH, f"auth: {{psk_credential: {SECRET}, psk: 0x{SECRET}}}")),
    changed((AUTH, f"auth: {{psk: &{SECRET.split()[0]}_ {SECRET}}}")),
    changed((AUTH, f"auth: {{psk: '{SECRET}")),
    changed((AUTH, f"auth: {{psk: {SECRET}: x}}")),
])
def test_key_is_in_no_message_repr_or_traceback(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, mode=0o600)
    try:
        loaded = load_policy(path, credentials_directory=None)
        shown = f"{loaded!r} {loaded.text} {loaded.warnings} {loaded.policy}"
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.problems)
    assert SECRET not in shown
    assert "battery" not in shown


def test_canonical_text_compiles_to_the_same_policy_without_its_keys(tmp_path: Path) -> None:
    write(tmp_path, """\
peers:
  extra:
    address: 203.0.113.9
    auth: {psk_file: KEYFILE}
    children: {c: {local: [10.1.0.0/16], remote: [10.9.0.0/16]}}
""", name="conf.d/extra.yaml")
    loaded = compiled(tmp_path, changed((AUTH, f"auth: {{psk: {SECRET}}}")), mode=0o600)
    (tmp_path / "good.psk").unlink()
    again = compile_accepted(loaded.text, "accepted")
    assert again.policy.entries == loaded.policy.entries
    assert again.policy.domain == loaded.policy.domain
    assert again.settings.state_directory == loaded.settings.state_directory
    assert all(len(peer.psk) == 0 for peer in again.policy.peers)


def test_plan_reads_only_keys_that_the_running_configuration_names(tmp_path: Path) -> None:
    running = compiled(tmp_path, GOOD)
    text = (tmp_path / "ipsecd.yaml").read_text()
    sources = running.settings.secret_sources
    assert compile_text(text, "x", known_sources=sources, credentials_directory=None).policy == running.policy
    other = text.replace("good.psk", "other.psk")
    for content in (None, b"short"):
        if content is not None:
            (tmp_path / "other.psk").write_bytes(content)
        planned = compile_text(other, "x", known_sources=sources, credentials_directory=None)
        assert len(planned.policy.peers[0].psk) == 0
        assert planned.warnings == ("x:7:5: peers.hq.auth: the key was not read for this plan, so whether it changes "
                                    "is unknown",)
        assert diff(running.policy, planned.policy) == ()

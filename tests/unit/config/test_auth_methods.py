"""`auth` by bare public keys and by nothing: which keys it takes and which it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipsecd.config.compile import compile_text
from ipsecd.config.diff import PeerChanged, diff
from ipsecd.ike.crypto.public_keys import key_bytes
from ipsecd.policy import NOBODY, NullAuth, RawKeys
from tests.support.pki import issue
from tests.unit.config.support import GOOD, changed, compiled, errors_of

OURS, THEIRS = issue("CN=a", which=1), issue("CN=b", which=2)
AUTH = "auth: {psk_file: KEYFILE}"


def text(auth: str, directory: Path, *more: tuple[str, str]) -> str:
    """Return the good configuration with another `auth`; DIR holds our key and the peer's in both forms."""
    (directory / "own.key").write_bytes(OURS.pkcs8.reveal())
    (directory / "own.key").chmod(0o600)
    for form, encoding in (("pem", Encoding.PEM), ("der", Encoding.DER)):
        data = THEIRS.key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        (directory / f"hq.{form}").write_bytes(data)
    return changed((AUTH, f"auth: {auth}"), *more).replace("DIR", str(directory))


@pytest.mark.parametrize("form", ["pem", "der"])
def test_public_keys_of_both_sides_are_read(form: str, tmp_path: Path) -> None:
    auth = compiled(tmp_path, text(f"{{private_key: DIR/own.key, public_keys: DIR/hq.{form}}}", tmp_path)).policy.peers[
        0].auth
    assert auth.remote == RawKeys((key_bytes(THEIRS.key.public_key()),))
    assert getattr(auth.local, "chain", None) == (key_bytes(OURS.key.public_key()),)
    assert getattr(auth.local, "raw", None)


def test_null_authentication_of_the_peer_is_taken_as_said_and_warned_about(tmp_path: Path) -> None:
    loaded = compiled(tmp_path, text("{local: psk, remote: null-auth, psk_file: KEYFILE}", tmp_path,
                                     ("    identity: hq.example.net\n", "")))
    peer = loaded.policy.peers[0]
    assert (peer.auth.local, peer.auth.remote, peer.remote_identity) == (None, NullAuth(), NOBODY)
    assert any("lets in whoever can reach this gateway" in w for w in loaded.warnings)


@pytest.mark.parametrize(("auth", "problem"), [
    ("{remote: null-auth, psk_file: KEYFILE}", "6:5: peers.hq.identity: found an identity beside auth.remote"),
    ("{public_keys: DIR/hq.pem}", "7:5: peers.hq.auth: found no private_key; expected gateway.private_key"),
    ("{local: public-key, remote: public-key, private_key: DIR/own.key}", "7:5: peers.hq.auth: found no public_keys"),
    ("{private_key: DIR/own.key, public_keys: DIR/own.key}", "7:"),
    ("{psk_file: KEYFILE, public_keys: DIR/hq.pem}", "expected `local` and `remote` to say which"),
    ("{local: null-auth, remote: psk, psk_file: KEYFILE, private_key: DIR/own.key}", "peers.hq.auth.private_key: found "
     "this key, but local is null-auth"),
    ("{local: psk, remote: psk, psk_file: KEYFILE, public_keys: DIR/hq.pem}", "peers.hq.auth.public_keys: found this "
     "key, but local is psk and remote is psk"),
    ("null", "7:11: peers.hq.auth"),
])
def test_methods_that_do_not_fit_are_named_with_their_place(auth: str, problem: str, tmp_path: Path) -> None:
    found = errors_of(tmp_path, text(auth, tmp_path))
    assert any(problem in line for line in found), found


def test_changed_public_key_makes_the_ike_sa_anew_and_one_not_read_changes_nothing(tmp_path: Path) -> None:
    old = compiled(tmp_path, text("{private_key: DIR/own.key, public_keys: DIR/hq.pem}", tmp_path))
    (tmp_path / "hq.pem").write_bytes(OURS.key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    new = compiled(tmp_path, old.text)
    assert diff(old.policy, new.policy) == (PeerChanged("hq", ("auth",), disruptive=True),)
    unread = compile_text(old.text, "plan", known_sources=frozenset(), credentials_directory=None)
    assert diff(old.policy, unread.policy) == ()
    assert any("were not read for this plan" in w for w in unread.warnings)
    assert PeerChanged("hq", ("auth.certificate", "auth"), disruptive=True) in diff(
        old.policy, compiled(tmp_path, GOOD).policy)

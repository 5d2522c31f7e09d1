"""`auth: certificate` and what it needs: files, directories, identities, expiry, plans, reloads."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ipsecd.config.compile import Loaded, compile_accepted, compile_text, load_policy
from ipsecd.config.diff import PeerChanged, diff
from ipsecd.config.validity import Validity, expiry_warnings
from ipsecd.errors import ConfigError
from ipsecd.ike.crypto.certificates import authority_hash, parse_certificate
from ipsecd.policy import Credential, Revocation
from tests.support.pki import Entity, authority, issue, name
from tests.unit.config.support import write
from tests.unit.crypto.test_revocation import crl

TODAY = datetime.fromtimestamp(time.time(), UTC)
YEARS = {"start": TODAY - timedelta(days=100), "end": TODAY + timedelta(days=1000)}
ROOT = authority(**YEARS)
INTER = authority("O=Example, CN=Inter", ROOT, which=91, **YEARS)
OURS = issue("O=Example, CN=a", INTER, which=1, sans=("branch-a.example.net",), **YEARS)

TEXT = """\
gateway:
  identity: branch-a.example.net
  certificate: DIR/own.pem
  private_key: DIR/own.key
  authorities: [DIR/ca]
peers:
  hq:
    address: [198.51.100.2]
    identity: hq.example.net
    auth: certificate
    children:
      office:
        local: [10.1.0.0/16, "2001:db8:1::/48"]
        remote: [10.2.0.0/16, "2001:db8:2::/48"]
"""


def world(directory: Path, own: Entity = OURS, *above: Entity, passphrase: bytes | None = None) -> None:
    """Write our certificate, its key and a directory of authorities."""
    (directory / "own.pem").write_bytes(own.pem + b"".join(e.pem for e in above or (INTER,)))
    form = {} if passphrase is None else {"encryption_algorithm": BestAvailableEncryption(passphrase)}
    key = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, **form) if form else own.pkcs8.reveal()
    (directory / "own.key").write_bytes(key)
    (directory / "own.key").chmod(0o640)
    (directory / "ca").mkdir(exist_ok=True)
    (directory / "ca/root.pem").write_bytes(ROOT.pem)


def load(directory: Path, *changes: tuple[str, str]) -> Loaded:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_policy(write(directory, text.replace("DIR", str(directory))), credentials_directory=None)


def errors(directory: Path, *changes: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, *changes)
    return [line.replace(f"{directory}/", "") for line in caught.value.problems]


def with_more(directory: Path, more: Entity) -> tuple[str, str]:
    """Write another certificate of ours; return the change of the text that names it."""
    (directory / "more.pem").write_bytes(more.pem)
    (directory / "more.key").write_bytes(more.pkcs8.reveal())
    (directory / "more.key").chmod(0o640)
    return ("  authorities: [DIR/ca]", "  authorities: [DIR/ca]\n  more_certificates:\n"
            "    - {certificate: DIR/more.pem, private_key: DIR/more.key}")


def test_more_certificates_know_the_authorities_above_them(tmp_path: Path) -> None:
    world(tmp_path)
    other = authority("O=Other, CN=Root", which=92, **YEARS)
    (tmp_path / "ca/other.pem").write_bytes(other.pem)
    more = issue("O=Other, CN=a", other, which=3, sans=("branch-a.example.net",), **YEARS)
    change = with_more(tmp_path, more)
    auth = load(tmp_path, change).policy.peers[0].auth
    def hashes(*entities: Entity) -> tuple[bytes, ...]:
        return tuple(authority_hash(parse_certificate(e.der)) for e in entities)

    assert isinstance(auth.local, Credential)
    assert auth.local.issuer_hashes == hashes(INTER, ROOT)
    assert auth.local.issuer == INTER.der
    assert [(c.chain, c.private_key, c.issuer_hashes) for c in auth.others] == [
        ((more.der,), more.pkcs8, hashes(other))]
    renewed = issue("O=Other, CN=a", other, which=4, sans=("branch-a.example.net",), **YEARS)
    before = load(tmp_path, change).policy
    with_more(tmp_path, renewed)
    after = load(tmp_path, change).policy
    assert after.peers[0].auth.others[0].chain == (renewed.der,)
    (changed,) = diff(before, after)
    assert isinstance(changed, PeerChanged)
    assert changed.fields == ("auth.certificate",)


def test_certificate_of_a_peer_stands_alone(tmp_path: Path) -> None:
    world(tmp_path)
    change = with_more(tmp_path, issue("CN=a", ROOT, which=3, sans=("branch-a.example.net",), **YEARS))
    own = ("    auth: certificate", "    auth: {certificate: DIR/own.pem, private_key: DIR/own.key}")
    assert load(tmp_path, change, own).policy.peers[0].auth.others == ()


def test_more_certificates_name_our_identity_too(tmp_path: Path) -> None:
    world(tmp_path)
    change = with_more(tmp_path, issue("CN=x", ROOT, which=3, sans=("x.example.net",), **YEARS))
    assert any("peers refuse any other" in line for line in errors(tmp_path, change))


def test_certificate_key_and_authorities_come_from_the_gateway(tmp_path: Path) -> None:
    world(tmp_path)
    loaded = load(tmp_path)
    auth = loaded.policy.peers[0].auth
    assert loaded.warnings == ()
    assert auth.local is not None
    assert auth.remote is not None
    assert auth.local.chain == (OURS.der, INTER.der)
    assert auth.local.private_key == OURS.pkcs8
    assert auth.remote.authorities == (ROOT.der,)
    assert auth.remote.authority_hashes == (authority_hash(parse_certificate(ROOT.der)),)
    assert (auth.remote.revocation, auth.remote.issuer, auth.legacy) == (Revocation.IF_AVAILABLE, None, False)
    assert len(loaded.policy.peers[0].psk) == 0


def test_a_peer_may_have_its_own_certificate_authorities_and_demands(tmp_path: Path) -> None:
    world(tmp_path)
    (tmp_path / "crl.der").write_bytes(crl(ROOT))
    (tmp_path / "inter.der").write_bytes(INTER.der)
    loaded = load(tmp_path, ("  certificate: DIR/own.pem\n  private_key: DIR/own.key\n  authorities: [DIR/ca]\n", ""),
                  ("auth: certificate", "auth: {certificate: DIR/own.pem, private_key: DIR/own.key, "
                   'authorities: DIR/ca, issuer: "dn:O=Example, CN=Inter", revocation: strict, crls: DIR/crl.der, '
                   "intermediates: [DIR/inter.der], any_purpose: true}"))
    remote = loaded.policy.peers[0].auth.remote
    assert remote is not None
    assert remote.issuer == name("O=Example, CN=Inter").public_bytes()
    assert (remote.revocation, remote.crls, remote.intermediates, remote.any_purpose) == (
        Revocation.STRICT, (crl_of(tmp_path),), (INTER.der,), True)


def crl_of(directory: Path) -> bytes:
    return (directory / "crl.der").read_bytes()


def test_each_direction_may_have_its_own_method(tmp_path: Path) -> None:
    world(tmp_path)
    peer = load(tmp_path, ("auth: certificate", "auth: {psk_file: KEYFILE, local: certificate, remote: psk}"),
                ).policy.peers[0]
    assert peer.auth.local is not None
    assert peer.auth.remote is None
    assert len(peer.psk) == 32


def test_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    world(tmp_path, passphrase=b"correct horse")
    assert any("own.key" not in e and "no passphrase is given" in e for e in errors(tmp_path))
    (tmp_path / "word").write_bytes(b"correct horse\n")
    (tmp_path / "word").chmod(0o600)
    with_word = ("  authorities", "  passphrase_file: DIR/word\n  authorities")
    assert load(tmp_path, with_word).policy.peers[0].auth.local == load(tmp_path, with_word).policy.peers[0].auth.local
    (tmp_path / "word").write_bytes(b"wrong")
    found = errors(tmp_path, with_word)
    assert "ipsecd.yaml:4:16: gateway.private_key: found it is no private key, or the passphrase is wrong" in found[0]
    assert not any("wrong\n" in e or "correct" in e for e in found)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_key_file_of_open_mode_is_refused(tmp_path: Path, mode: int) -> None:
    world(tmp_path)
    (tmp_path / "own.key").chmod(mode)
    assert errors(tmp_path)[0].startswith(f"ipsecd.yaml:4:16: gateway.private_key: found mode {mode:04o}")


@pytest.mark.parametrize(("own", "problem"), [
    (issue("CN=a", INTER, which=2, sans=("branch-b.example.net",), **YEARS), "found our identity branch-a.example.net"),
    (authority("CN=Sub", ROOT, which=3, sans=("branch-a.example.net",), **YEARS), "the certificate of an authority"),
], ids=["other name", "authority"])
def test_certificate_that_cannot_be_ours_is_refused(tmp_path: Path, own: Entity, problem: str) -> None:
    world(tmp_path, own)
    assert any(problem in e for e in errors(tmp_path))


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    world(tmp_path)
    (tmp_path / "own.pem").write_bytes(issue("CN=a", INTER, which=7, sans=("branch-a.example.net",), **YEARS).pem)
    assert "ipsecd.yaml:4:16: gateway.private_key: found a key that does not belong to the first certificate" in \
        errors(tmp_path)[0]


@pytest.mark.parametrize(("content", "problem"), [
    (OURS.pem, "which is no authority's certificate"), (b"", "cannot be read"),
    (b"-----BEGIN", "no readable certificate"),
    (issue("CN=weak", kind="rsa1024", ca=True, **YEARS).pem, "an RSA key of 1024 bits")])
def test_file_that_is_no_authority_is_refused_with_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    world(tmp_path)
    (tmp_path / "ca/other.crt").write_bytes(content)
    found = errors(tmp_path)
    assert found[0].startswith("ipsecd.yaml:5:")
    assert problem in found[0]


def test_list_that_is_none_is_refused(tmp_path: Path) -> None:
    world(tmp_path)
    (tmp_path / "x.crl").write_bytes(b"-----BEGIN")
    assert "no readable revocation list" in errors(tmp_path, ("  authorities", "  crls: [DIR/x.crl]\n  authorities"))[0]


def test_identity_of_ours_must_be_said(tmp_path: Path) -> None:
    world(tmp_path)
    assert "found no identity of ours" in errors(tmp_path, ("  identity: branch-a.example.net\n", ""))[0]


def test_empty_directory_of_authorities_is_refused(tmp_path: Path) -> None:
    world(tmp_path)
    (tmp_path / "ca/root.pem").unlink()
    assert "found 0 certificates" in errors(tmp_path)[0]


@pytest.mark.parametrize(("days", "text"), [
    (400, ()), (29, ("ends in less than 30 days",)), (6, ("ends in less than 7 days",)),
    (0.5, ("ends in less than 1 day",)), (-3, ("ended 3 days ago",))])
def test_end_of_validity_is_warned_about_once(tmp_path: Path, days: float, text: tuple[str, ...]) -> None:
    # An expired one does not keep the other peers from starting.
    own = issue("CN=a", INTER, which=1, sans=("branch-a.example.net",), start=YEARS["start"],
                end=TODAY + timedelta(days=days))
    world(tmp_path, own)
    warnings = load(tmp_path).warnings
    assert len(warnings) == len(text)
    assert all("ipsecd.yaml:3:16: gateway.certificate: CN=a" in line and part in line
               for line, part in zip(warnings, text, strict=True))


def test_warnings_follow_the_time_of_day() -> None:
    place = Validity("ipsecd.yaml:3:16: gateway.certificate: CN=a", 100.0, 100.0 + 40 * 86400)
    said = [expiry_warnings((place,), 100.0 + day * 86400) for day in (-1, 0, 9, 11, 34, 39.5, 42)]
    assert [line[0].removeprefix(f"{place.place} ") if line else "" for line in said] == [
        "is not valid yet", "", "", "ends in less than 30 days", "ends in less than 7 days", "ends in less than 1 day",
        "ended 2 days ago"]


def test_guard_at_boot_reads_no_certificate(tmp_path: Path) -> None:
    world(tmp_path)
    text = load(tmp_path).text
    for path in ("own.pem", "own.key", "ca/root.pem"):
        (tmp_path / path).unlink()
    again = compile_accepted(text, "x")
    assert again.policy.entries == load_policy_entries(tmp_path)


def load_policy_entries(directory: Path) -> object:
    world(directory)
    return load(directory).policy.entries


def test_plan_reads_only_files_that_the_running_configuration_names(tmp_path: Path) -> None:
    world(tmp_path)
    running = load(tmp_path)
    text = TEXT.replace("DIR", str(tmp_path))
    known = running.settings.secret_sources
    assert {str(tmp_path / p) for p in ("own.pem", "own.key", "ca", "ca/root.pem")} <= known
    again = compile_text(text, "x", known_sources=known, credentials_directory=None)
    assert diff(running.policy, again.policy) == ()
    for other in ("/nonexistent/own.key", str(tmp_path), f"{tmp_path}/ca/.."):
        planned = compile_text(text.replace(str(tmp_path / "own.key"), other), "x", known_sources=known,
                               credentials_directory=None)
        assert any("not read for this plan" in w for w in planned.warnings)
        assert diff(running.policy, planned.policy) == ()


def test_ce20_renewed_certificate_and_list_disturb_nothing_and_other_trust_does(tmp_path: Path) -> None:
    world(tmp_path)
    before = load(tmp_path).policy
    world(tmp_path, issue("O=Example, CN=a", INTER, which=8, sans=("branch-a.example.net",), **YEARS))
    renewed = load(tmp_path).policy
    assert diff(before, renewed) == (PeerChanged("hq", ("auth.certificate",), disruptive=False),)
    (tmp_path / "crl.der").write_bytes(crl(ROOT))
    listed = load(tmp_path, ("  authorities", "  crls: [DIR/crl.der]\n  authorities")).policy
    assert diff(renewed, listed) == (PeerChanged("hq", ("auth.crls",), disruptive=False),)
    (tmp_path / "ca/other.pem").write_bytes(authority("CN=Other", which=95, **YEARS).pem)
    assert diff(renewed, load(tmp_path).policy) == (PeerChanged("hq", ("auth",), disruptive=True),)
    by_key = load(tmp_path, ("auth: certificate", "auth: {psk_file: KEYFILE}")).policy
    assert diff(by_key, renewed) == (PeerChanged("hq", ("auth.certificate", "auth"), disruptive=True),)

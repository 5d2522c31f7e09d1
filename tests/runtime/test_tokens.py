"""Private keys in a PKCS #11 token (SoftHSM): they sign for every kind of certificate, and what is wrong is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ipsecd.config.compile import compile_text, load_policy
from ipsecd.config.diff import diff
from ipsecd.errors import ConfigError, TokenError
from ipsecd.ike.consts import AuthMethod
from ipsecd.ike.crypto.public_keys import check_key, key_bytes
from ipsecd.ike.crypto.signatures import OUR_HASHES, sign, verify
from ipsecd.policy import AuthPolicy, Credential, RawKeys, TokenKey
from ipsecd.runtime.tokens import parse_uri, token_key
from ipsecd.secret import Secret
from tests.exchange.test_auth_cert import GW_B, by_certificate, trust, with_auth
from tests.exchange.test_auth_cert import ROOT as EXCHANGE_ROOT
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.pki import Entity, authority, issue
from tests.unit.config.support import write

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "0815-secret"
KINDS = ("rsa2048", "p256", "p384", "ed25519")
TODAY = datetime.fromtimestamp(time.time(), UTC)
YEARS = {"start": TODAY - timedelta(days=1), "end": TODAY + timedelta(days=1000)}

pytest.importorskip("pkcs11", reason="needs python-pkcs11")
pytestmark = pytest.mark.skipif(not (MODULE.exists() and shutil.which("softhsm2-util")),
                                reason="needs softhsm2 (scripts/setup --system)")


@dataclass
class Token:
    """A token with a key of each kind; the module reads where it stands when it is first loaded."""

    directory: Path
    root: Entity
    entities: dict[str, Entity]

    def uri(self, label: str, token: str = "lab") -> str:
        return f"pkcs11:token={token};object={label}?module-path={MODULE}"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    directory = tmp_path_factory.mktemp("token")
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(directory / "softhsm2.conf")
    try:
        util("--init-token", "--free", "--label", "lab", "--so-pin", "4711-secret", "--pin", PIN)
        root = authority(**YEARS)
        entities = {kind: issue("CN=a", root, kind=kind, which=7, sans=("a.example", "branch-a.example.net"), **YEARS)
                    for kind in KINDS}
        for number, (kind, entity) in enumerate(entities.items(), 1):
            (directory / f"{kind}.key").write_bytes(
                entity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            util("--import", str(directory / f"{kind}.key"), "--token", "lab", "--label", kind, "--id", f"0{number}",
                 "--pin", PIN)
        yield Token(directory, root, entities)
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


def util(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, timeout=30)


def opened(token: Token, kind: str, *, pin: str = PIN, uri: str | None = None) -> TokenKey:
    return token_key(uri or token.uri(kind), Secret(pin.encode()), check_key(token.entities[kind].key.public_key()))


@pytest.mark.parametrize("kind", KINDS)
def test_key_in_a_token_signs_as_its_certificate_says(token: Token, kind: str) -> None:
    key, public = opened(token, kind), check_key(token.entities[kind].key.public_key())
    for hash_ in OUR_HASHES:
        if (hash_ == OUR_HASHES[-1]) == (kind == "ed25519"):
            verify(public, sign(key, b"octets", peer_hashes=(hash_,), legacy=False), b"octets", legacy=False)


def test_old_peers_get_the_methods_that_they_know(token: Token) -> None:
    for kind, method in (("p256", AuthMethod.ECDSA_256), ("p384", AuthMethod.ECDSA_384),
                         ("rsa2048", AuthMethod.RSA_SIGNATURE)):
        made = sign(opened(token, kind), b"octets", peer_hashes=(), legacy=True)
        assert made.method == method
        verify(check_key(token.entities[kind].key.public_key()), made, b"octets", legacy=True)


def test_token_without_pss_signs_by_the_older_scheme(token: Token) -> None:
    key = opened(token, "rsa2048")
    assert {"rsa-pss", "rsa-pkcs1"} <= key.kinds
    old = replace(key, kinds=key.kinds - {"rsa-pss"})
    made = sign(old, b"octets", peer_hashes=OUR_HASHES, legacy=False)
    assert bytes.fromhex("2a864886f70d01010b") in made.data[:20]     # sha256WithRSAEncryption
    verify(check_key(token.entities["rsa2048"].key.public_key()), made, b"octets", legacy=False)


@pytest.mark.parametrize("kind", KINDS)
def test_ike_sa_is_authenticated_by_a_key_in_a_token(token: Token, kind: str) -> None:
    own = token.entities[kind]
    auth = AuthPolicy(Credential((own.der,), opened(token, kind)), trust(EXCHANGE_ROOT))
    two = Two(with_auth(policy_a(), auth), with_auth(policy_b(), by_certificate(GW_B, trusted=trust(token.root))))
    two.net.wall_offset = time.time() - two.net.now
    two.establish()


@pytest.mark.parametrize("kind", KINDS)
def test_ike_sa_is_authenticated_by_a_bare_key_in_a_token(token: Token, kind: str) -> None:
    # RFC 7670; the public half comes from the token too.
    key = token_key(token.uri(kind), Secret(PIN.encode()), None)
    assert key.public_key == key_bytes(check_key(token.entities[kind].key.public_key()))
    other = issue("CN=b", kind="p256", which=8)
    theirs = Credential((key_bytes(check_key(other.key.public_key())),), other.pkcs8, raw=True)
    two = Two(with_auth(policy_a(), AuthPolicy(Credential((key.public_key,), key, raw=True), RawKeys(theirs.chain))),
              with_auth(policy_b(), AuthPolicy(theirs, RawKeys((key.public_key,)))))
    two.establish()


@pytest.mark.parametrize(("kind", "pin", "token_label", "why"), [
    ("p256", "wrong-pin", "lab", "does not sign: pin incorrect"), ("p256", PIN, "elsewhere", "no such token"),
    ("nothing", PIN, "lab", "no such key"), ("p384", PIN, "lab", "does not belong to the certificate or public key"),
    ("rsa2048", PIN, "lab", "does not sign")])
def test_what_does_not_sign_is_an_error_with_its_reason(token: Token, kind: str, pin: str, token_label: str,
                                                        why: str) -> None:
    with pytest.raises(ValueError, match=f"found a key in a token that .*{why}"):
        opened(token, "p256", pin=pin, uri=token.uri(kind, token_label))


def test_refused_pin_is_not_shown_again(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    key = opened(token, "p256")
    monkeypatch.setattr(key.sign.__self__, "_pin", Secret(b"changed"))  # type: ignore[attr-defined]
    for why in ("pin incorrect", "it is not shown again before a reload"):
        with pytest.raises(TokenError, match=why):
            key.sign("ecdsa", "sha256", b"octets")


TEXT = """\
gateway:
  identity: branch-a.example.net
  certificate: DIR/own.pem
  private_key: URI
  passphrase_file: DIR/pin
  authorities: [DIR/root.pem]
peers:
  hq:
    address: [198.51.100.2]
    identity: hq.example.net
    auth: certificate
    children:
      office: {local: [10.1.0.0/16], remote: [10.2.0.0/16]}
"""


def written(token: Token, directory: Path, uri: str, pin: str = PIN) -> Path:
    (directory / "own.pem").write_bytes(token.entities["p256"].pem)
    (directory / "root.pem").write_bytes(token.root.pem)
    (directory / "pin").write_text(f"{pin}\n")
    (directory / "pin").chmod(0o600)
    return write(directory, TEXT.replace("DIR", str(directory)).replace("URI", uri))


def test_configuration_names_the_key_by_its_uri(token: Token, tmp_path: Path) -> None:
    path = written(token, tmp_path, token.uri("p256"))
    loaded = load_policy(path, credentials_directory=None)
    local = loaded.policy.peers[0].auth.local
    assert isinstance(local, Credential)
    assert isinstance(local.private_key, TokenKey)
    assert PIN not in repr(loaded.policy)
    again = load_policy(path, credentials_directory=None)
    assert diff(loaded.policy, again.policy) == ()


def bare(token: Token, directory: Path, uri: str) -> Path:
    path = written(token, directory, uri)
    (directory / "peer.pub").write_bytes(token.entities["p384"].key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    text = path.read_text().replace("auth: certificate", f"auth: {{public_keys: [{directory}/peer.pub]}}")
    return write(directory, text.replace(f"  certificate: {directory}/own.pem\n", ""))


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_names_a_bare_key_by_its_uri(token: Token, tmp_path: Path, kind: str) -> None:
    loaded = load_policy(bare(token, tmp_path, token.uri(kind)), credentials_directory=None)
    local = loaded.policy.peers[0].auth.local
    assert isinstance(local, Credential)
    assert isinstance(local.private_key, TokenKey)
    assert local.raw
    assert local.chain == (key_bytes(check_key(token.entities[kind].key.public_key())),)
    again = load_policy(bare(token, tmp_path, token.uri(kind)), credentials_directory=None)
    assert diff(loaded.policy, again.policy) == ()


def test_bare_key_whose_public_half_is_not_in_the_token_is_an_error_in_its_line(token: Token, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not its public half: no such key") as caught:
        load_policy(bare(token, tmp_path, token.uri("nothing")), credentials_directory=None)
    assert "gateway.private_key" in caught.value.problems[0]


def test_plan_of_a_strangers_text_asks_no_token_for_a_bare_key(token: Token, tmp_path: Path) -> None:
    running = load_policy(bare(token, tmp_path, token.uri("p256")), credentials_directory=None)
    text = bare(token, tmp_path, token.uri("ed25519")).read_text()
    planned = compile_text(text, "x.yaml", known_sources=running.settings.secret_sources, credentials_directory=None)
    assert planned.policy.peers[0].auth.unread


@pytest.mark.parametrize(("uri", "pin", "why"), [
    ("pkcs11:token=lab;object=nothing?module-path=/usr/lib/softhsm/libsofthsm2.so", PIN, "no such key"),
    ("pkcs11:token=lab;object=p256?module-path=/usr/lib/softhsm/libsofthsm2.so", "wrong", "pin incorrect"),
    ("pkcs11:token=lab;object=p256?module-path=/nowhere/x.so", PIN, "found no library /nowhere/x.so"),
    ("pkcs11:token=lab;object=p256?module-path=/etc/hostname", PIN, "os exception|loading"),
])
def test_configuration_whose_token_does_not_sign_is_refused_in_its_line(
        token: Token, tmp_path: Path, uri: str, pin: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(written(token, tmp_path, uri, pin), credentials_directory=None)
    (problem,) = caught.value.problems
    assert "ipsecd.yaml:4:" in problem
    assert "gateway.private_key" in problem
    assert any(w in problem for w in why.split("|"))
    assert pin not in problem


def test_missing_package_is_named(token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigError, match=r"pip install 'ipsecd\[pkcs11\]'"):
        load_policy(written(token, tmp_path, token.uri("p256")), credentials_directory=None)


def test_plan_of_a_strangers_text_opens_no_module(token: Token, tmp_path: Path) -> None:
    running = load_policy(written(token, tmp_path, token.uri("p256")), credentials_directory=None)
    text = TEXT.replace("DIR", str(tmp_path)).replace("URI", token.uri("p384"))
    planned = compile_text(text, "x.yaml", known_sources=running.settings.secret_sources, credentials_directory=None)
    assert planned.policy.peers[0].auth.unread


@pytest.mark.parametrize(("uri", "why"), [
    ("pkcs11:token=lab", "module-path"), ("pkcs11:token=lab?module-path=/x.so", "names no private key"),
    ("pkcs11:object=a?module-path=x.so", "module-path"), ("pkcs11:object=a?module-path=/x.so&pin-value=1", "pin-value"),
    ("pkcs11:object=a;type=cert?module-path=/x.so", "names no private key"),
    ("pkcs11:object=a;object=b?module-path=/x.so", "once each"), ("pkcs11:colour=a?module-path=/x.so", "colour=a")])
def test_uri_that_does_not_do_is_refused(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_uri(uri)


def test_uri_is_decoded() -> None:
    found = parse_uri("pkcs11:token=my%20token;serial=0a;object=k%3B1;id=%01%ff;type=private?module-path=/usr/lib/x.so")
    assert found == ("/usr/lib/x.so", "my token", "0a", "k;1", b"\x01\xff")

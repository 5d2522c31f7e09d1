"""Certificates, keys and revocation lists from files: what `auth` and `gateway` name -> AuthPolicy.

Everything is read and checked when the configuration is loaded: a key that does not belong to its certificate, an
authority that is none, an identity that the certificate does not name are errors of the file, with their line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ipsecd.config import defaults as d
from ipsecd.config import model
from ipsecd.config.nodes import Location
from ipsecd.config.problems import Problems
from ipsecd.config.secrets import PLACEHOLDER, SecretReader
from ipsecd.config.validity import Validity
from ipsecd.errors import AuthenticationError
from ipsecd.ike.crypto.cert_identity import check_identity
from ipsecd.ike.crypto.certificates import LIBRARY_ERRORS, Certificate, authority_hash, parse_certificate
from ipsecd.ike.crypto.public_keys import import_private_key, import_public_key, key_bytes, load_private_key
from ipsecd.policy import (
    AuthPolicy,
    CertificateTrust,
    Credential,
    Identity,
    NullAuth,
    RawKeys,
    Revocation,
    TokenKey,
)
from ipsecd.runtime.tokens import SCHEME, token_key
from ipsecd.secret import Secret

T = TypeVar("T")
PSK, CERTIFICATE, PUBLIC_KEY, NULL_AUTH = "psk", "certificate", "public-key", "null-auth"
PSK_KEYS = ("psk_file", "psk_credential", "psk")
KEY_KEYS = ("private_key", "passphrase_file")
LOCAL_KEYS = ("certificate", *KEY_KEYS)
REMOTE_KEYS = ("authorities", "intermediates", "crls", "issuer", "revocation", "any_purpose")
_SUFFIXES = (".pem", ".crt", ".cer", ".der", ".crl")
_NOT_READ = Credential((), PLACEHOLDER)


@dataclass(frozen=True, slots=True)
class Methods:
    """What proves each side: PSK, CERTIFICATE, PUBLIC_KEY or NULL_AUTH."""

    local: str
    remote: str

    @property
    def uses_psk(self) -> bool:
        """Whether the pre-shared key is needed."""
        return PSK in (self.local, self.remote)


def methods(auth: model.AuthKeys, location: Location, problems: Problems) -> Methods:
    """Return what proves each side, by what is said or else by which keys are there."""
    given = {PSK: _given(auth, PSK_KEYS), PUBLIC_KEY: _given(auth, ("public_keys",)),
             CERTIFICATE: _given(auth, ("certificate", *REMOTE_KEYS))}
    if not given[PUBLIC_KEY]:
        given[CERTIFICATE] += _given(auth, KEY_KEYS)
    kinds = [kind for kind, keys in given.items() if keys]
    if len(kinds) > 1 and not (auth.local and auth.remote):
        problems.error(location, f"found {given[kinds[0]][0]} and {given[kinds[1]][0]}; expected `local` and `remote` "
                                 "to say which of them proves which side")
    default = kinds[0] if kinds else PSK
    found = Methods(auth.local or default, auth.remote or default)
    unused = [*(given[PSK] if not found.uses_psk else ()),
              *(_given(auth, ("certificate",)) if found.local != CERTIFICATE else ()),
              *(_given(auth, KEY_KEYS) if found.local not in (CERTIFICATE, PUBLIC_KEY) else ()),
              *(given[PUBLIC_KEY] if found.remote != PUBLIC_KEY else ()),
              *(_given(auth, REMOTE_KEYS) if found.remote != CERTIFICATE else ())]
    for key in unused:
        problems.key((*location, key), f"found this key, but local is {found.local} and remote is {found.remote}; "
                                       "expected no such key")
    return found


def _given(auth: model.AuthKeys, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(auth, name) is not None]


class CertificateFiles:
    """Reads what the configuration names, each file once."""

    def __init__(self, gateway: model.GatewayKeys, *, reader: SecretReader, problems: Problems) -> None:
        self._gateway = gateway
        self._reader = reader
        self._problems = problems
        self._files: dict[tuple[str, bool], bytes | None] = {}
        self._credentials: dict[tuple[str, str, str | None], Credential | None] = {}
        self._validities: dict[bytes, Validity] = {}
        self.sources: set[str] = set()

    @property
    def validities(self) -> tuple[Validity, ...]:
        """When each certificate that was read is valid, named once."""
        return tuple(self._validities.values())

    def auth(self, location: Location, auth: model.AuthKeys, found: Methods, identity: Identity | None, *,
             legacy: bool) -> AuthPolicy:
        """Return how a peer entry authenticates; errors and warnings go to the problems."""
        local = self._local(location, auth, found, identity)
        more = found.local == CERTIFICATE and auth.certificate is None
        others = self._more(location, identity) if more else ()
        return AuthPolicy(local, self._remote(location, auth, found), legacy=legacy, others=others)

    def _local(self, location: Location, auth: model.AuthKeys, found: Methods,
               identity: Identity | None) -> Credential | NullAuth | None:
        match found.local:
            case "certificate":
                return self._credential(location, auth, identity)
            case "public-key":
                return self._bare_key(location, auth)
            case "null-auth":
                return NullAuth()
            case _:
                return None

    def _remote(self, location: Location, auth: model.AuthKeys,
                found: Methods) -> CertificateTrust | RawKeys | NullAuth | None:
        match found.remote:
            case "certificate":
                return self._trust(location, auth)
            case "public-key":
                if not auth.public_keys:
                    self._problems.error(location, "found no public_keys; expected the peer's")
                return RawKeys(tuple(self._all((*location, "public_keys"), auth.public_keys or [], self._public_keys)))
            case "null-auth":
                self._problems.warn((*location, "remote"), "lets in whoever can reach this gateway: what its children "
                                                           "select is open to all, in both directions")
                return NullAuth()
            case _:
                return None

    def _bare_key(self, location: Location, auth: model.AuthKeys) -> Credential:
        own = auth.private_key is not None
        source: model.AuthKeys | model.GatewayKeys = auth if own else self._gateway
        if source.private_key is None:
            self._problems.error(location, "found no private_key; expected gateway.private_key, or one here")
            return _NOT_READ
        at, named = location if own else ("gateway",), (source.private_key, source.passphrase_file)
        key = self._token_key(at, *named, bare=True) if named[0].startswith(SCHEME) else self._private_key(at, *named)
        if isinstance(key, TokenKey):
            return Credential((key.public_key,), key, raw=True)
        if not key:
            return replace(_NOT_READ, raw=True)
        return Credential((key_bytes(load_private_key(key).public_key()),), key, raw=True)

    def _credential(self, location: Location, auth: model.AuthKeys, identity: Identity | None) -> Credential:
        own = auth.certificate is not None
        source: model.AuthKeys | model.GatewayKeys = auth if own else self._gateway
        at: Location = location if own else ("gateway",)
        if not own and _given(auth, LOCAL_KEYS):
            self._problems.error(location, f"found {_given(auth, LOCAL_KEYS)[0]}; expected `certificate` beside it")
        if source.certificate is None or source.private_key is None:
            missing = "certificate" if source.certificate is None else "private_key"
            self._problems.error(location, f"found no {missing}; expected gateway.certificate and gateway.private_key, "
                                           "or both here")
            return _NOT_READ
        key = (source.certificate, source.private_key, source.passphrase_file)
        if key not in self._credentials:
            self._credentials[key] = self._read_credential(at, *key)
        credential = self._credentials[key]
        if credential is None or not credential.chain:
            return credential or _NOT_READ
        self._check_own(location, parse_certificate(credential.chain[0]), identity)
        return credential

    def _more(self, location: Location, identity: Identity | None) -> tuple[Credential, ...]:
        found: list[Credential] = []
        for index, source in enumerate(self._gateway.more_certificates or ()):
            key = (source.certificate, source.private_key, source.passphrase_file)
            if key not in self._credentials:
                self._credentials[key] = self._read_credential(("gateway", "more_certificates", index), *key)
            credential = self._credentials[key]
            if credential is not None and credential.chain:
                self._check_own(location, parse_certificate(credential.chain[0]), identity)
                found.append(credential)
        return tuple(found)

    def _read_credential(self, at: Location, certificate: str, private_key: str,
                         passphrase: str | None) -> Credential | None:
        """Return our certificate and key, None with errors; empty where the files are not to be read."""
        chain = self._certificates((*at, "certificate"), certificate)
        key = (self._token_key(at, private_key, passphrase, chain) if private_key.startswith(SCHEME) else
               self._private_key(at, private_key, passphrase))
        if chain is None or key == PLACEHOLDER:
            return _NOT_READ
        if key is None or not chain:
            return None
        if isinstance(key, Secret) and key_bytes(load_private_key(key).public_key()) != key_bytes(chain[0].key):
            self._problems.error((*at, "private_key"), "found a key that does not belong to the first certificate in "
                                                       f"{certificate}; expected its key")
        if chain[0].is_ca:
            self._problems.error((*at, "certificate"), f"found the certificate of an authority ({chain[0]}) first; "
                                                       "expected our own, then those between it and the authority")
        above = self._above(chain)
        return Credential(tuple(c.der for c in chain), key, issuer_hashes=tuple(map(authority_hash, above)),
                          issuer=above[0].der if above and chain[0].signed_by(above[0]) else b"")

    def _above(self, chain: list[Certificate]) -> list[Certificate]:
        """Return the authorities above a certificate of ours: those in its file, and those configured that sign."""
        known = [c for key in ("authorities", "intermediates")
                 for c in self._all(("gateway", key), getattr(self._gateway, key) or [], self._certificates)]
        path = list(chain)
        while issuer := next((c for c in known if c not in path and path[-1].signed_by(c)), None):
            path.append(issuer)
        return path[1:]

    def _token_key(self, at: Location, uri: str, pin_file: str | None,
                   chain: list[Certificate] | None = None, *, bare: bool = False) -> TokenKey | Secret | None:
        """Return the key that a URI names, once it has signed; None with errors; empty where it is not to be asked.

        Its public half is the first certificate's; a bare one comes from the token.
        """
        self.sources.add(uri)
        pin = self._read((*at, "passphrase_file"), pin_file, secret=True) if pin_file else None
        if not (chain or bare) or (pin_file and pin is None) or not self._reader.may_read(uri):
            return PLACEHOLDER
        return self._try((*at, "private_key"), lambda: token_key(
            uri, Secret(pin.removesuffix(b"\n")) if pin is not None else None, chain[0].key if chain else None))

    def _private_key(self, at: Location, path: str, passphrase: str | None) -> Secret | None:
        """Return the key in PKCS#8, None with errors; empty where the files are not to be read."""
        data = self._read((*at, "private_key"), path, secret=True)
        word = self._read((*at, "passphrase_file"), passphrase, secret=True) if passphrase else None
        if data is None or (passphrase and word is None):
            return PLACEHOLDER
        return self._try((*at, "private_key"), lambda: import_private_key(
            data, Secret(word.removesuffix(b"\n")) if word is not None else None))

    def _check_own(self, location: Location, certificate: Certificate, identity: Identity | None) -> None:
        if identity is None:
            self._problems.error(location, "found no identity of ours; expected gateway.identity or local_identity, "
                                           "named by the certificate")
            return
        try:
            check_identity(certificate, identity)
        except AuthenticationError as error:
            self._problems.error(location, f"found our identity {identity}: {error}; expected one that the certificate "
                                           "names, because peers refuse any other")

    def _trust(self, location: Location, auth: model.AuthKeys) -> CertificateTrust:
        gateway = self._gateway

        def source(key: str) -> tuple[Location, list[str]]:
            own: list[str] | None = getattr(auth, key)
            return ((*location, key), own) if own is not None else (("gateway", key), getattr(gateway, key) or [])

        at, names = source("authorities")
        if not names:
            self._problems.error(location, "found no authorities; expected gateway.authorities, or `authorities` here")
        authorities = self._all(at, names, self._certificates)
        for certificate in authorities:
            if not certificate.is_ca:
                self._problems.error(at, f"found {certificate}, which is no authority's certificate (basicConstraints "
                                         "CA:TRUE); expected authorities only")
        if auth.issuer is not None and not auth.issuer.text.startswith("dn:"):
            self._problems.expected((*location, "issuer"), '"dn:C=..., CN=..."')
        return CertificateTrust(
            authorities=tuple(c.der for c in authorities),
            authority_hashes=tuple(authority_hash(c) for c in authorities),
            intermediates=tuple(c.der for c in self._all(*source("intermediates"), self._certificates)),
            crls=tuple(self._all(*source("crls"), self._crls)),
            issuer=auth.issuer.data if auth.issuer else None,
            revocation=Revocation(auth.revocation or Revocation.IF_AVAILABLE), any_purpose=bool(auth.any_purpose))

    def _all(self, at: Location, names: list[str], read: Callable[[Location, str], list[T] | None]) -> list[T]:
        found: list[T] = []
        for index, name in enumerate(names):
            for path in self._expanded((*at, index), name):
                found += read((*at, index), path) or []
        return list(dict.fromkeys(found))

    def _expanded(self, at: Location, name: str) -> list[str]:
        """Return a file, or the certificates in a directory by name; a directory not to be read is like a file."""
        self.sources.add(name)
        if not self._reader.may_read(name) or not Path(name).is_dir():
            return [name]
        try:
            found = sorted(str(p) for p in Path(name).iterdir() if p.suffix in _SUFFIXES)
        except OSError as error:
            self._problems.error(at, f"found a directory that cannot be read ({error.strerror}); expected "
                                     "a readable one")
            return []
        if not found or len(found) > d.MAX_CERTIFICATE_FILES:
            self._problems.error(at, f"found {len(found)} certificates (*.pem, *.crt, *.cer, *.der, *.crl) in this "
                                     f"directory; expected 1 to {d.MAX_CERTIFICATE_FILES}")
            return []
        return found

    def _certificates(self, at: Location, path: str) -> list[Certificate] | None:
        data = self._read(at, path, secret=False)
        if data is None:
            return None
        found = self._try(at, lambda: [parse_certificate(der) for der in _certificate_ders(data)])
        for certificate in found or ():
            self._note(at, certificate)
        return found

    def _public_keys(self, at: Location, path: str) -> list[bytes] | None:
        data = self._read(at, path, secret=False)
        return None if data is None else self._try(at, lambda: [key_bytes(import_public_key(data))])

    def _crls(self, at: Location, path: str) -> list[bytes] | None:
        data = self._read(at, path, secret=False)
        return None if data is None else self._try(at, lambda: [_crl_der(data)])

    def _read(self, at: Location, path: str, *, secret: bool) -> bytes | None:
        self.sources.add(path)
        if (path, secret) not in self._files:
            self._files[path, secret] = self._try(at, lambda: self._reader.read_file(path, secret=secret))
        return self._files[path, secret]

    def _try(self, at: Location, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (ValueError, AuthenticationError) as error:
            text = str(error)
            self._problems.error(at, text if text.startswith("found") else f"found {text}; expected a usable file")
            return None

    def _note(self, at: Location, certificate: Certificate) -> None:
        place = self._problems.line(at, str(certificate))
        self._validities.setdefault(certificate.der, Validity(place, certificate.not_before, certificate.not_after))


def _certificate_ders(data: bytes) -> list[bytes]:
    if b"-----BEGIN" not in data:
        return [data]
    try:
        return [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(data)]
    except LIBRARY_ERRORS:
        raise ValueError("found no readable certificate; expected PEM or DER") from None


def _crl_der(data: bytes) -> bytes:
    load = x509.load_pem_x509_crl if b"-----BEGIN" in data else x509.load_der_x509_crl
    try:
        return load(data).public_bytes(Encoding.DER)
    except LIBRARY_ERRORS:
        raise ValueError("found no readable revocation list; expected a CRL in PEM or DER") from None

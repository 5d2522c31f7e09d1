"""strongSwan live on the far side: certificates of every kind, in both roles, with intermediates, and wrong ones."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.lab.daemon import Ipsecd, default_config
from tests.lab.rig import Rig, answers
from tests.lab.swan import LEFT_ID, RIGHT_ID, Swan
from tests.support.netns import LAB, CommandError, eventually
from tests.support.pki import Entity, authority, issue
from tests.unit.crypto.test_revocation import crl

pytestmark = [*LAB, pytest.mark.interop]

TODAY = datetime.fromtimestamp(time.time(), UTC)
VALID = {"start": TODAY - timedelta(days=1), "end": TODAY + timedelta(days=100)}


class CertSwan(Swan):
    """strongSwan with certificates on both sides; `pubkey` is how it signs."""

    def __init__(self, rig: Rig, *, own: Entity, chain: tuple[Entity, ...], roots: tuple[Entity, ...],
                 pubkey: str = "pubkey") -> None:
        self._pubkey = pubkey
        super().__init__(rig, rig.b, rig.a)
        directory = self._run / "swanctl"
        for name, entities in (("x509", (own,)), ("x509ca", (*roots, *chain))):
            (directory / name).mkdir()
            for index, entity in enumerate(entities):
                (directory / name / f"{name}{index}.pem").write_bytes(entity.pem)
        (directory / "private").mkdir()
        (directory / "private/own.pem").write_bytes(private_pem(own))

    def configure(self, **changes: str) -> None:
        """Write the connection with certificates in place of the key."""
        super().configure(**changes)
        path = self._run / "swanctl" / "swanctl.conf"
        text = path.read_text().split("secrets {")[0]
        local = f"auth = {self._pubkey}\n      certs = x5090.pem"
        path.write_text(text.replace("auth = psk", local, 1).replace("auth = psk", "auth = pubkey", 1))


def private_pem(entity: Entity) -> bytes:
    """Return the key as strongSwan reads it: traditional for RSA and ECDSA, PKCS#8 for the others."""
    traditional = hasattr(entity.key, "curve") or hasattr(entity.key, "key_size")
    form = PrivateFormat.TraditionalOpenSSL if traditional else PrivateFormat.PKCS8
    return entity.key.private_bytes(Encoding.PEM, form, NoEncryption())


class Certs:
    """An authority for each side's certificate, by way of an intermediate where asked for."""

    def __init__(self, kind: str, *, through: bool = False, end: datetime = VALID["end"], name: str = LEFT_ID) -> None:
        self.root = authority("O=Lab, CN=Root", kind=kind, **VALID)
        self.inter = authority("O=Lab, CN=Inter", self.root, kind=kind, which=91, **VALID)
        issuer = self.inter if through else self.root
        self.chain = (self.inter,) if through else ()
        self.ours = issue("O=Lab, CN=ours", issuer, kind=kind, which=1, sans=(name,), start=VALID["start"], end=end)
        self.theirs = issue("O=Lab, CN=theirs", issuer, kind=kind, which=2, sans=(RIGHT_ID,), **VALID)


def ipsecd(rig: Rig, certs: Certs, **auth: object) -> Ipsecd:
    """Return an ipsecd whose only peer authenticates by certificates."""
    where = rig.directory / "pki"
    where.mkdir()
    (where / "own.pem").write_bytes(certs.ours.pem + b"".join(e.pem for e in certs.chain))
    (where / "own.key").write_bytes(private_pem(certs.ours))
    (where / "own.key").chmod(0o600)
    (where / "root.pem").write_bytes(certs.root.pem)
    (where / "root.crl").write_bytes(crl(certs.root, (certs.theirs,), start=TODAY - timedelta(hours=1),
                                         end=TODAY + timedelta(days=1)))
    config = default_config(rig.a, rig.b)
    config["gateway"] |= {"certificate": str(where / "own.pem"), "private_key": str(where / "own.key"),
                          "authorities": [str(where / "root.pem")]}
    entry = next(iter(config["peers"].values()))
    if "crls" in auth:
        auth["crls"] = [str(where / "root.crl")]
    entry["auth"] = {"local": "certificate", "remote": "certificate", **auth}
    return Ipsecd(rig, rig.a, rig.b, config=config)


@contextmanager
def peers(certs: Certs, *, initiator: str = "ipsecd", pubkey: str = "pubkey", fragmentation: int = 1280,
          start: bool = True, **auth: object) -> Iterator[tuple[Rig, Ipsecd, Swan]]:
    """Start both with these certificates, or only strongSwan; nothing is up yet."""
    with Rig() as rig:
        swan = CertSwan(rig, own=certs.theirs, chain=certs.chain, roots=(certs.root,), pubkey=pubkey)
        ours = ipsecd(rig, certs, **auth)

        def settle(config: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
            entry = config["peers"][ours.peer]
            entry["ike"] = {**entry.get("ike", {}), "fragmentation": fragmentation}
            if initiator != "ipsecd":
                entry["children"][ours.child.split("/")[1]]["start"] = "listen"     # type: ignore[index]

        ours.change(settle)
        swan.start()
        if start:
            ours.start()
        if start and initiator != "ipsecd":
            swan.initiate()
        yield rig, ours, swan


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519"])
def test_certificates_of_both_sides_prove_them(kind: str, initiator: str) -> None:
    with peers(Certs(kind), initiator=initiator) as (rig, ours, swan):
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        assert swan.installed() == 1
        rig.witness.assert_clean()


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize("kind", ["rsa2048", "p256", "ed25519"])
def test_chain_with_an_intermediate_in_fragments(kind: str, initiator: str) -> None:
    with peers(Certs(kind, through=True), initiator=initiator, fragmentation=576) as (rig, ours, _):
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)


@pytest.mark.parametrize(("pubkey", "scheme"), [
    ("rsa/pss-sha256", "PSS_SHA2_256"), ("rsa/pss-sha512", "PSS_SHA2_512"), ("ike:rsa-sha384", "PKCS1_SHA2_384")])
def test_scheme_with_which_the_peer_signs(pubkey: str, scheme: str) -> None:
    with peers(Certs("rsa2048"), initiator="strongswan", pubkey=pubkey) as (rig, ours, swan):
        ours.wait_up()
        assert f"(myself) with RSA_EMSA_{scheme}" in swan.said()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)


@pytest.mark.parametrize(("certs", "auth"), [
    (Certs("p256", end=TODAY - timedelta(hours=1)), {}), (Certs("p256"), {"crls": True}),
    (Certs("p256"), {"issuer": "dn:O=Other, CN=Root"}), (Certs("p256"), {"revocation": "strict"})],
    ids=["ours expired", "theirs revoked", "another issuer", "no list in strict"])
def test_certificates_that_do_not_hold_bring_no_tunnel_up(certs: Certs, auth: dict[str, object]) -> None:
    with peers(certs, **auth) as (rig, ours, swan):
        assert eventually(lambda: any(cause in ours.said() for cause in ("certificate_refused", "peer_refused_auth")),
                          within_s=10)
        assert swan.installed() == 0
        assert not ours.child_status()["sas"]
        with pytest.raises((CommandError, subprocess.TimeoutExpired)):
            swan.initiate()
        rig.witness.assert_clean()


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
def test_certificate_is_the_one_below_the_authority_that_strongswan_trusts(initiator: str) -> None:
    certs = Certs("p256")
    other = authority("O=Elsewhere, CN=Root", kind="p256", which=95, **VALID)
    usual = issue("O=Elsewhere, CN=ours", other, kind="p256", which=3, sans=(LEFT_ID,), **VALID)
    with peers(certs, initiator="strongswan", start=False) as (rig, ours, swan):
        where = rig.directory / "pki"
        for name, entity in (("usual", usual), ("more", certs.ours)):
            (where / f"{name}.pem").write_bytes(entity.pem)
            (where / f"{name}.key").write_bytes(private_pem(entity))
            (where / f"{name}.key").chmod(0o600)
        more = {"certificate": str(where / "more.pem"), "private_key": str(where / "more.key")}
        ours.change(lambda c: c["gateway"].update(certificate=str(where / "usual.pem"), more_certificates=[more],
                                                  private_key=str(where / "usual.key")))
        ours.start()
        if initiator == "strongswan":
            swan.initiate()
        else:
            ours.ctl("up", ours.peer)
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)


def test_renewed_files_are_taken_by_a_reload_and_shown_in_the_next_handshake() -> None:
    certs = Certs("p256")
    with peers(certs) as (rig, ours, swan):
        ours.wait_up()
        renewed = issue("O=Lab, CN=renewed", certs.root, kind="p256", which=4, sans=(LEFT_ID,), **VALID)
        (rig.directory / "pki/own.pem").write_bytes(renewed.pem)
        (rig.directory / "pki/own.key").write_bytes(private_pem(renewed))
        ours.reload()
        assert swan.installed() == 1                    # what is up stays up
        ours.ctl("down", ours.peer)
        ours.ctl("up", ours.peer)
        ours.wait_up()
        assert eventually(lambda: "CN=renewed" in swan.said(), within_s=10)
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)

"""strongSwan live on the far side: post-quantum pre-shared keys (RFC 8784), bare public keys, re-authentication."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.interop.test_certificates import private_pem
from tests.interop.world import World
from tests.lab.command import ike_spis
from tests.lab.daemon import Config, Ipsecd, default_config
from tests.lab.rig import Rig, answers
from tests.lab.swan import PPK, PPK_ID, Swan
from tests.lab.torrent import Torrent
from tests.support.netns import LAB, eventually
from tests.support.pki import Entity, issue

pytestmark = [*LAB, pytest.mark.interop]

OTHER = "0sQW5vdGhlciBwb3N0LXF1YW50dW0ga2V5IG9mIHRoaXMgbGFiISE="


def ppk(world: World, *, required: bool, key: str = PPK, id_: str = PPK_ID) -> dict[str, Any]:
    """Return our peer's keys with a post-quantum key in a file."""
    path = world.rig.directory / "lab.ppk"
    path.write_text(key)
    path.chmod(0o600)
    return {"ppk": {"id": id_, "file": str(path), "required": required}}


def theirs(required: bool, *, key: str = PPK) -> dict[str, str]:
    return {"ike_extra": f"ppk_id = {PPK_ID}\n    ppk_required = {'yes' if required else 'no'}", "ppk": key}


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize(("ours", "swan"), [(True, True), (True, False), (False, True), (False, False)])
def test_ppk_is_in_the_keys_of_both(world: World, initiator: str, ours: bool, swan: bool) -> None:
    with world.connected(initiator=initiator, ours=ppk(world, required=ours), theirs=theirs(swan)):
        assert eventually(lambda: answers(world.rig.a.host, world.rig.b.host4), within_s=10)
        assert "PPK" in world.swan.swanctl("--list-sas", "--raw").upper() or "using PPK" in world.swan.said()
        assert world.same()


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
def test_optional_ppk_that_one_end_lacks_is_done_without(world: World, initiator: str) -> None:
    with world.connected(initiator=initiator, theirs=theirs(required=False)):
        assert eventually(lambda: answers(world.rig.a.host, world.rig.b.host4), within_s=10)
    with world.connected(initiator=initiator, ours=ppk(world, required=False)):
        assert eventually(lambda: answers(world.rig.a.host, world.rig.b.host4), within_s=10)


@pytest.mark.parametrize(("ours", "swan"), [
    ({"required": True, "id_": "another"}, None), (None, {"required": True}),
    ({"required": True, "key": OTHER}, {"required": True})])
def test_required_ppk_that_differs_brings_nothing_up(world: World, ours: dict[str, Any] | None,
                                                     swan: dict[str, Any] | None) -> None:
    world.separate(ours={"ike": {"init_timeout": "2s"}} | (ppk(world, **ours) if ours else {}),
                   theirs=theirs(**swan) if swan else {})
    since = world.now()
    world.begin()
    assert eventually(lambda: any(f["cause"] in ("ppk_mismatch", "peer_refused_auth")
                                  for f in world.failures(since=since)), within_s=15)
    assert world.swan.installed() == 0
    world.rig.witness.assert_clean()


class RawSwan(Swan):
    """strongSwan with bare public keys on both sides."""

    def __init__(self, rig: Rig, *, own: Entity, peer: Entity) -> None:
        super().__init__(rig, rig.b, rig.a)
        directory = self._run / "swanctl"
        for name in ("pubkey", "private"):
            (directory / name).mkdir()
        (directory / "private/own.pem").write_bytes(private_pem(own))
        for name, entity in (("own", own), ("peer", peer)):
            (directory / f"pubkey/{name}.pub").write_bytes(public_pem(entity))

    def configure(self, **changes: str) -> None:
        """Write the connection with public keys in place of the key."""
        super().configure(**changes)
        path = self._run / "swanctl" / "swanctl.conf"
        text = path.read_text().split("secrets {")[0]
        for name in ("own", "peer"):
            text = text.replace("auth = psk", f"auth = pubkey\n      pubkeys = {name}.pub", 1)
        path.write_text(text)


def public_pem(entity: Entity) -> bytes:
    return entity.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
@pytest.mark.parametrize("kind", ["rsa2048", "ed25519"])
def test_bare_public_keys_of_both_sides_prove_them(kind: str, initiator: str) -> None:
    own, peer = issue("CN=own", kind=kind, which=1), issue("CN=peer", kind=kind, which=2)
    with Rig() as rig:
        config = default_config(rig.a, rig.b)
        entry = next(iter(config["peers"].values()))
        entry["auth"] = {"private_key": write(rig.directory / "own.key", private_pem(own)),
                         "public_keys": [write(rig.directory / "peer.pub", public_pem(peer))]}
        if initiator != "ipsecd":
            entry["children"]["office"]["start"] = "listen"
        swan, ours = RawSwan(rig, own=peer, peer=own), Ipsecd(rig, rig.a, rig.b, config=config)
        swan.start()
        ours.start()
        if initiator != "ipsecd":
            swan.initiate()
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        rig.witness.assert_clean()


@contextmanager
def reauthenticating(*, make_before_break: str = "yes", theirs: str = "",
                     **ike: str) -> Iterator[tuple[Rig, Ipsecd, Swan]]:
    """Start both; strongSwan's strategy is a setting of the daemon."""
    with Rig() as rig:
        config: Config = default_config(rig.a, rig.b)
        next(iter(config["peers"].values()))["ike"] = ike
        swan = Swan(rig, rig.b, rig.a, ike_extra=theirs, extra=f"make_before_break = {make_before_break}")
        ours = Ipsecd(rig, rig.a, rig.b, config=config)
        swan.start()
        ours.start()
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        yield rig, ours, swan
        rig.witness.assert_clean()


def renewed(ours: Ipsecd, times: int) -> bool:
    """Return whether there have been this many IKE SAs after the first one, one after the other."""
    seen: set[str] = set()

    def enough() -> bool:
        seen.update(ike_spis(ours))
        return len(seen) > times
    return eventually(enough, within_s=40)


def test_our_reauthentication_loses_no_packet_of_ours() -> None:
    # strongSwan sends on the new pair before its answer, which makes that pair here, is out: those few are lost.
    with reauthenticating(reauth_time="3s") as (rig, ours, swan):
        with (Torrent(rig.a.host, rig.b.host, rig.b.host4, packets_per_s=200) as there,
              Torrent(rig.b.host, rig.a.host, rig.a.host4, packets_per_s=200) as back):
            assert renewed(ours, 2)
        assert not there.lost, (there.account, swan.log(200))
        drops = ours.status()["gateway"]["drops"]
        assert len(back.lost) <= drops["esp_unknown_spi"] <= 20, (back.account, drops)


def test_reauthentication_by_strongswan_before_it_breaks_loses_what_is_on_its_way_at_most() -> None:
    with reauthenticating(theirs="reauth_time = 3s\n    rekey_time = 0s\n    over_time = 10s\n    rand_time = 0s",
                          ) as (rig, ours, swan):
        with (Torrent(rig.a.host, rig.b.host, rig.b.host4, packets_per_s=200) as there,
              Torrent(rig.b.host, rig.a.host, rig.a.host4, packets_per_s=200) as back):
            assert renewed(ours, 2)
        # It forgets the old pair with our answer to its Delete, ours receives a little longer.
        assert len(there.lost) <= 3 and not back.lost, (there.account, back.account, swan.log(200))


def test_reauthentication_by_strongswan_that_breaks_first_heals_at_once() -> None:
    with reauthenticating(make_before_break="no", theirs="reauth_time = 5s\n    rekey_time = 0s\n    over_time = 10s\n"
                          "    rand_time = 0s") as (rig, ours, swan):
        assert renewed(ours, 1)
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=5), swan.log(100)
        # Both ends begin anew at once, so there can be two for a moment.
        assert eventually(lambda: len(re.findall("ESTABLISHED", swan.sas())) == 1, within_s=30), swan.sas()


def test_strongswan_reauthenticates_when_we_say() -> None:
    # RFC 4478: it shortens what AUTH_LIFETIME tells it by its over_time.  It tells us only where EAP or virtual
    # addresses keep it from doing it by itself, so that direction has no test here.
    with Rig() as rig:
        config: Config = default_config(rig.a, rig.b)
        entry = next(iter(config["peers"].values()))
        del entry["address"]
        entry["ike"], entry["children"]["office"]["start"] = {"reauth_time": "12s"}, "listen"
        swan = Swan(rig, rig.b, rig.a, ike_extra="reauth_time = 0s\n    rekey_time = 1h\n    over_time = 4s",
                    extra="make_before_break = yes")
        ours = Ipsecd(rig, rig.a, rig.b, config=config)
        swan.start()
        ours.start()
        swan.initiate()
        ours.wait_up()
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        assert renewed(ours, 1), swan.log(100)
        assert "received AUTH_LIFETIME of 1" in swan.log(1000), swan.log(100)
        assert eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=10)
        rig.witness.assert_clean()

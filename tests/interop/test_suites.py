"""Every suite that both have: agreed, carrying, and rekeyed from either side, so that each end proposes it once."""

from __future__ import annotations

import pytest

from tests.interop.world import IKE, World
from tests.lab.command import ike_spis, rekey_child
from tests.lab.rig import ping
from tests.support.netns import LAB, eventually

pytestmark = [*LAB, pytest.mark.interop]

HASHES, BITS = (256, 384, 512), (128, 192, 256)
GROUPS = ("x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192")
AEADS = ("aes128gcm16", "aes192gcm16", "aes256gcm16", "chacha20poly1305")

IKE_SUITES = [f"{aead}-prfsha{HASHES[number % 3]}-x25519" for number, aead in enumerate(AEADS)]
IKE_SUITES += [f"aes{bits}-sha{hash_}-prfsha{hash_}-ecp256" for bits in BITS for hash_ in HASHES]
IKE_SUITES += [f"aes256gcm16-prfsha384-{group}" for group in GROUPS]

_CIPHERS = [*AEADS, *(f"aes{bits}-sha{hash_}" for bits in BITS for hash_ in HASHES)]
# Each cipher, and each group for perfect forward secrecy (RFC 7296 1.3.1).
ESP_SUITES = [f"{cipher}-{GROUPS[number % len(GROUPS)]}" for number, cipher in enumerate(_CIPHERS)]
ESP_SUITES += ["aes256gcm16", "aes128-sha256"]      # rekeyed without a key exchange


@pytest.mark.parametrize("suite", IKE_SUITES)
def test_ike_suite_is_agreed_and_rekeyed_by_the_other_side(world: World, suite: str) -> None:
    with world.connected(ike=suite):
        assert world.suites()[0] == suite
        before = ike_spis(world.ours)
        world.swan.swanctl("--rekey", "--ike", "lab")
        assert eventually(lambda: ike_spis(world.ours).isdisjoint(before) and world.same(), within_s=15)
        assert world.suites()[0] == suite
        ping(world.rig.a.host, world.rig.b.host4, count=1)


@pytest.mark.parametrize("suite", ESP_SUITES)
def test_esp_suite_carries_and_is_rekeyed_from_either_side(world: World, suite: str) -> None:
    with world.connected(esp=suite):
        a, b = world.rig.a, world.rig.b
        ping(a.host, b.host4, count=1, size=1200)
        assert suite.startswith(world.suites()[1])                  # IKE_AUTH carries no key exchange
        rekey_child(world.ours)
        assert world.suites()[1] == suite
        ping(b.host, a.host6, count=1, size=1200)
        before = world.pairs()
        world.swan.swanctl("--rekey", "--child", "office")
        assert eventually(lambda: world.pairs().isdisjoint(before) and world.same(), within_s=15)
        assert world.suites()[1] == suite
        ping(a.host, b.host4, count=1, size=1200)


def test_first_common_suite_of_several_is_agreed(world: World) -> None:
    theirs = {"ike": f"aes128-sha256-modp2048,aes192gcm16-prfsha384-ecp384,{IKE}"}
    for ours in ([IKE, "aes192gcm16-prfsha384-ecp384"], ["aes128gcm16-prfsha256-x25519", IKE]):
        with world.connected(ours={"ike": {"proposals": ours}}, theirs=theirs):
            assert world.suites()[0] in ours
            ping(world.rig.a.host, world.rig.b.host4, count=1)


def test_group_that_the_peer_refuses_is_replaced_by_the_one_it_asks_for(world: World) -> None:
    # IKE_SA_INIT { SA, KEi(31), Ni } -->   <-- { N(INVALID_KE_PAYLOAD 20) }   (RFC 7296 1.2)
    ours = {"proposals": ["aes256gcm16-prfsha384-x25519-ecp384"]}
    with world.connected(ours={"ike": ours}, theirs={"ike": "aes256gcm16-prfsha384-ecp384"}):
        assert world.suites()[0] == "aes256gcm16-prfsha384-ecp384"
        ping(world.rig.a.host, world.rig.b.host4, count=1)


def test_group_that_we_refuse_is_replaced_by_the_one_we_ask_for(world: World) -> None:
    ours = {"proposals": ["aes256gcm16-prfsha384-ecp384"]}
    theirs = {"ike": "aes256gcm16-prfsha384-x25519-ecp384"}
    with world.connected(initiator="strongswan", ours={"ike": ours}, theirs=theirs):
        assert world.suites()[0] == "aes256gcm16-prfsha384-ecp384"
        ping(world.rig.a.host, world.rig.b.host4, count=1)


@pytest.mark.parametrize("initiator", ["ipsecd", "strongswan"])
def test_peer_without_additional_key_exchanges_falls_back_to_the_classical_suite(world: World, initiator: str) -> None:
    # strongSwan 5.9 does not know the transform types of RFC 9370 and passes over the proposals with them.
    ours = {"proposals": [f"{IKE}-ke1_mlkem768", IKE]}
    with world.connected(initiator=initiator, ours={"ike": ours}, theirs={"ike": IKE}):
        assert world.suites()[0] == IKE
        ping(world.rig.a.host, world.rig.b.host4, count=1)

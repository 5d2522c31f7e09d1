"""What the source must not contain, and what must not come out of it: slices of datagrams, shells, formats from data,
keys in events, text of a peer that reaches a terminal as it came."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator

import pytest

from ipsecd.effects import Emit
from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import IdType, PayloadType
from ipsecd.ike.crypto.kex_ecp import EcpExchange
from ipsecd.ike.crypto.kex_modp import ModpExchange
from ipsecd.ike.crypto.kex_x25519 import X25519Exchange
from ipsecd.ike.negotiate import ke_to_retry
from ipsecd.ike.wire.message import build_payloads
from ipsecd.ike.wire.payloads import IdPayload
from ipsecd.policy import Identity
from ipsecd.secret import Secret
from tests.support import source_rules as rules
from tests.support.exchange import IKE, Two, policy_a
from tests.support.mallory import Mallory
from tests.support.source_rules import Module
from tests.support.victim import Victim, reachable

PACKAGE = rules.package()
FROM_A_PEER = re.compile(r"^(datagram|packet|body|data|payload|cookie|plaintext|ciphertext)$")
# Modules of the control side that may slice what a peer sent, and why the lengths are known there.
SLICERS = {
    "ipsecd.ike.wire.cursor": "the cursor itself",
    "ipsecd.ike.crypto.sk_payload": "at an offset that the codec found, with the rest measured",
    "ipsecd.ike.crypto.cookie": "after a comparison with COOKIE_BYTES",
    "ipsecd.ike.tasks.ike_init": "two bytes of a notify, for a name in a text",
}


def test_only_the_codec_slices_what_a_peer_sent() -> None:
    # Row 53: a negative or short slice gives wrong bytes without a word.
    found = [line for module in PACKAGE if module.name.startswith(("ipsecd.ike.", "ipsecd.gateway", "ipsecd.supervis"))
             and module.name not in SLICERS and not module.name.startswith("ipsecd.ike.crypto.signatures")
             for line in slices(module)]
    assert found == []


def test_commands_are_constant_lists_without_a_shell() -> None:
    # Row 115: no text of anybody in an argument; that there is no shell, test_layering holds.
    found = [f"{module.path}:{call.lineno}" for module in PACKAGE for call in calls(module)
             if re.match(r"subprocess\.[a-zP]\w+$|asyncio\.create_subprocess", ast.unparse(call.func))
             and not (call.args and isinstance(call.args[0], ast.List) and all(
                 isinstance(part, ast.Constant) or (isinstance(part, ast.Name) and part.id.lstrip("_").isupper())
                 for part in call.args[0].elts))]
    assert found == []


def test_no_text_is_ever_a_format() -> None:
    # Row 116: str.format and templates take their pattern from the source alone.
    found = [f"{module.path}:{call.lineno}" for module in PACKAGE for call in calls(module)
             if isinstance(call.func, ast.Attribute) and call.func.attr in {"format", "format_map", "substitute"}
             and not isinstance(call.func.value, ast.Constant)]
    assert found == []


def test_names_of_warnings_are_constants() -> None:
    # Row 118: the name of an event is the source's, the values are fields.
    found = [f"{module.path}:{call.lineno}" for module in PACKAGE if (module.layer or 0) <= rules.PURE
             for call in calls(module) if ast.unparse(call.func) in {"Warned", "Notice"} and call.args
             and not isinstance(call.args[0], ast.Constant)]
    assert found == []


def test_secrets_are_compared_in_one_place() -> None:
    # Row 124: that `==` is nowhere, test_layering holds.
    found = {module.name for module in PACKAGE if "compare_digest" in module.text and not module.is_package}
    assert found <= {"ipsecd.ike.crypto.compare", "ipsecd.aead", "ipsecd.secret"}, found


def test_nothing_decrypts_with_rsa() -> None:
    # Rows 31, 128: one padding oracle forges every signature of that key; what is decrypted has an AEAD or an ICV.
    found = [f"{module.path}:{call.lineno}" for module in PACKAGE for call in calls(module)
             if isinstance(call.func, ast.Attribute) and call.func.attr == "decrypt"
             and module.name not in {"ipsecd.aead", "ipsecd.ipsec.esp"}]
    assert found == []


def test_nothing_computes_modular_powers_of_secrets_by_hand() -> None:
    # Row 129: Python's pow takes a time that depends on its values.
    found = [f"{module.path}:{call.lineno}" for module in PACKAGE for call in calls(module)
             if isinstance(call.func, ast.Name) and call.func.id == "pow"]
    assert found == []


@pytest.mark.parametrize("name", [
    b"a\nlevel=error forged", b"\x1b[2J\x1b]0;owned\x07", b"$(reboot)`id`;rm -rf /", b"%s%n%d{0.__class__}",
    "\u202egnp.exe\u2066\u200f".encode(), b"\xff\xfe\xc3\x28", b"\x80\x9b31m", b"x" * 1024,
    "\u2028\u2029\ufeff".encode()])
@pytest.mark.parametrize("kind", [IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID, IdType.DER_ASN1_DN, 99])
def test_identity_of_a_stranger_is_printable_in_every_event(name: bytes, kind: int) -> None:
    # Rows 58, 115, 117, 118, CT-04: one line, no control or bidi characters, bounded.
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    assert mallory.init()
    _, *rest = mallory.auth_payloads()
    type_, body = build_payloads((IdPayload(PayloadType.IDI, kind, name), *rest))
    mallory.send(mallory.seal(type_, body, exchange=35, message_id=1))
    assert victim.events(IkeAttemptFailed)
    for entry in victim.log:
        if isinstance(entry, Emit):
            for text in texts(entry.event.as_dict()):
                assert text.isprintable(), ascii(text)
                assert not re.search("[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text), ascii(text)
                assert len(text) < 800
    assert len(str(Identity(kind, name))) <= 300
    victim.check()


def test_no_event_report_or_view_shows_a_key() -> None:
    # Row 119, CT-05: every secret of a run, as bytes, hex and text, against everything that it said.
    two = Two(policy_a("lan", "voice"))
    handle = two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(20)
    two.a.endpoint.rekey_ike(handle, two.net.now)
    two.net.run(100)
    said = repr([*two.a.log, *two.b.log, two.a.endpoint.views(), two.b.endpoint.views()])
    secrets = {s.reveal() for s in gc.get_objects() if isinstance(s, Secret) and len(s.reveal()) >= 8}
    assert len(secrets) >= 10
    for secret in secrets:
        for form in (repr(secret)[2:-1], secret.hex(), str(list(secret))[1:-1]):
            assert form not in said


def test_private_values_of_key_exchanges_are_gone_once_used() -> None:
    # Row 122, RFC 7296 2.12: nothing of the core holds them when its exchange is over.
    two = Two()
    handle = two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(20)
    two.b.endpoint.rekey_ike(1, two.net.now)
    two.a.endpoint.rekey_ike(handle, two.net.now)
    two.net.run(100)
    held = reachable(two.a.endpoint) + reachable(two.b.endpoint)
    assert not [o for o in held if isinstance(o, X25519Exchange | EcpExchange | ModpExchange)]


def test_no_group_number_but_an_offered_one_is_obeyed() -> None:
    # Row 40: all of them.
    obeyed = {n for n in range(65536) if ke_to_retry((IKE,), n.to_bytes(2, "big"), used=31) is not None}
    assert obeyed == {19}


def slices(module: Module) -> Iterator[str]:
    """Yield slices of what carries a peer's bytes by its name."""
    for node in module.nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            name = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if FROM_A_PEER.match(name):
                yield f"{module.path}:{node.lineno}: {ast.unparse(node)}"


def calls(module: Module) -> Iterator[ast.Call]:
    yield from (node for node in module.nodes if isinstance(node, ast.Call))


def texts(value: object) -> Iterator[str]:
    """Yield every text in the plain form of an event."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)

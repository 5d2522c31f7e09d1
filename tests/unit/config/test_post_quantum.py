"""ML-KEM in proposals, `post_quantum`, and a library without ML-KEM."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.config.key_exchanges import default_ike, demanding, missing
from ipsecd.ike.consts import ProtocolId
from ipsecd.suites import DEFAULT_IKE_PROPOSALS, ML_KEMS, parse_proposal
from tests.unit.config.support import changed, compiled, errors_of

IKE = "auth: {psk_file: KEYFILE}"


def with_ike(text: str) -> str:
    return changed((IKE, f"{IKE}\n    ike: {text}"))


def offered(tmp_path: Path, text: str) -> list[str]:
    return [str(p) for p in compiled(tmp_path, with_ike(text)).policy.peers[0].ike.proposals]


def test_default_offers_hybrid_first_and_classical_behind(tmp_path: Path) -> None:
    found = offered(tmp_path, "{post_quantum: preferred}")
    assert "ke1_mlkem768" in found[0]
    assert not any("mlkem" in text for text in found[1:])
    assert len(found) == len(DEFAULT_IKE_PROPOSALS)


def test_required_leaves_what_demands_ml_kem(tmp_path: Path) -> None:
    found = offered(tmp_path, "{post_quantum: required}")
    assert len(found) == 1
    found = offered(tmp_path, "{post_quantum: required, proposals: [aes256gcm16-prfsha384-x25519-ke1_mlkem1024-"
                              "ke1_none, aes256gcm16-prfsha384-x25519]}")
    assert found == ["aes256gcm16-prfsha384-x25519-ke1_mlkem1024"]


@pytest.mark.parametrize(("text", "problem"), [
    ("{post_quantum: required, proposals: [aes256gcm16-prfsha384-x25519]}",
     "peers.hq.ike.post_quantum: found required, and no proposal of this peer has ML-KEM"),
    ("{proposals: [aes256gcm16-prfsha384-mlkem768]}", "'mlkem768' does not stand alone"),
    ("{proposals: [aes256gcm16-prfsha384-ke1_mlkem768]}", "no key exchange; add for example x25519"),
    ("{post_quantum: maybe}", "peers.hq.ike.post_quantum: found 'maybe'"),
])
def test_what_cannot_be_is_explained(text: str, problem: str, tmp_path: Path) -> None:
    assert any(problem in error for error in errors_of(tmp_path, with_ike(text)))


def test_library_without_ml_kem_leaves_it_out_of_the_default_and_is_named() -> None:
    def without(method: int) -> bool:
        return method not in ML_KEMS.values()

    assert default_ike(without) == list(DEFAULT_IKE_PROPOSALS[1:])
    proposal = parse_proposal(DEFAULT_IKE_PROPOSALS[0], protocol=ProtocolId.IKE)
    assert missing(proposal, without) == "ke1_mlkem768"
    assert not missing(proposal)
    assert demanding(parse_proposal(DEFAULT_IKE_PROPOSALS[1], protocol=ProtocolId.IKE)) is None

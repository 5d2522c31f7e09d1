from __future__ import annotations

import pytest

from ipsecd.errors import LocalError
from ipsecd.ike.consts import EncrId, KeId, ProtocolId, TransformType
from ipsecd.ike.crypto.selftest import self_test
from ipsecd.suites import (
    DEFAULT_AH_PROPOSALS,
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    Proposal,
    Transform,
    parse_proposal,
)


def test_every_default_suite_passes() -> None:
    self_test([parse_proposal(text, protocol=ProtocolId.IKE) for text in DEFAULT_IKE_PROPOSALS])
    self_test([parse_proposal(text, protocol=ProtocolId.ESP) for text in DEFAULT_ESP_PROPOSALS])
    self_test([parse_proposal(text, protocol=ProtocolId.AH) for text in DEFAULT_AH_PROPOSALS])


@pytest.mark.parametrize("transform", [
    Transform(TransformType.ENCR, EncrId.CAMELLIA_CBC, 128), Transform(TransformType.ENCR, EncrId.AES_CBC, 512),
    Transform(TransformType.PRF, 1), Transform(TransformType.INTEG, 1), Transform(TransformType.KE, KeId.ML_KEM_512),
    Transform(TransformType.KE, KeId.NONE), Transform(TransformType.ADDKE1, 35),
])
def test_algorithm_that_does_not_work_is_named(transform: Transform) -> None:
    # attack row 42: advertised, but not there
    with pytest.raises(LocalError, match="does not work on this machine"):
        self_test([Proposal(ProtocolId.IKE, (transform,))])

"""IKE_INTERMEDIATE (RFC 9242): one additional key exchange each, between IKE_SA_INIT and IKE_AUTH (RFC 9370 2.2.2).

    HDR, SK {KEi(n)} -->
                            <-- HDR, SK {KEr(n)}

The response still goes under the keys of before; each exchange gives the keys of the next.  Nobody is authenticated
yet, so AUTH covers all of it.  Any error ends the attempt, as one in IKE_AUTH does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.int_auth import covered
from ipsecd.ike.crypto.keymat import rekeyed_ike_keys
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import error_notify, of_error, refused_ike
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.ike_auth import AuthAnswer, AuthRequest
from ipsecd.ike.tasks.ike_init import InitResult
from ipsecd.ike.tasks.pick import check_public, first, need, wrong_method
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.task import Answer, Payloads, Task
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE, VERSION, IkeHeader
from ipsecd.ike.wire.message import build_payloads
from ipsecd.ike.wire.payloads import KePayload
from ipsecd.reports import ChildRequest
from ipsecd.secret import Secret


def authentication(session: Session, init: InitResult, requests: tuple[ChildRequest, ...]) -> Task:
    """Return the first task of an initiator after IKE_SA_INIT."""
    if not init.crypto.suite.additional or init.resumed is not None:
        return AuthRequest(session, init, requests)
    return IntermediateRequest(session, init, requests)


class IntermediateRequest(Task):
    """Our side as initiator: all additional key exchanges in turn, then IKE_AUTH."""

    exchange = ExchangeType.IKE_INTERMEDIATE

    def __init__(self, session: Session, init: InitResult, requests: tuple[ChildRequest, ...]) -> None:
        super().__init__(session)
        self._init = init
        self._requests = requests
        self._left = init.crypto.suite.additional
        self._own: kex.KeyExchange | None = None

    def build(self, now: float) -> Steps[Payloads | None]:
        """KEi(n)."""
        worked = yield from work(partial(kex.generate, self._left[0].id))
        self._own = worked.value
        payloads = (KePayload(worked.value.method, worked.value.public),)
        _cover_own(self.session, payloads, FLAG_INITIATOR)
        return payloads

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """KEr(n): take its keys, and go on."""
        session, method = self.session, self._left[0].id
        ke = first(response.payloads, KePayload)
        if ke is None:
            notify = error_notify(response.payloads)
            raise SaRefused(refused_ike(notify) if notify else
                            Failure(Cause.INVALID_SYNTAX, "IKE_INTERMEDIATE response without KE or error"))
        if ke.method != method:
            raise wrong_method(ke, method)
        assert self._own is not None
        worked = yield from work(partial(self._own.shared, ke.data))
        session.int_auth.add(session.crypto.suite.prf, session.crypto.keys.sk_pr, response.int_auth, is_response=True)
        _change_keys(session, self._init, worked.value)
        self._left = self._left[1:]
        session.enqueue(self if self._left else AuthRequest(session, _concluded(self._init, session), self._requests),
                        first=True)

    def failed(self, failure: Failure, now: float) -> None:
        """Nothing was promised to anybody."""


class HalfOpenAnswer(Answer):
    """Our side as responder before AUTH: the additional key exchanges that are due, then IKE_AUTH."""

    def __init__(self, session: Session, init: InitResult) -> None:
        super().__init__(session)
        self._init = init
        session.kes_due = init.crypto.suite.additional if init.resumed is None else ()

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """KEr(n), or what IKE_AUTH answers; raises SaRefused."""
        session = self.session
        if request.header.exchange == ExchangeType.IKE_AUTH:
            payloads = yield from AuthAnswer(session, _concluded(self._init, session)).process(request, now)
            return payloads
        try:
            payloads = yield from self._exchange(request)
        except PeerError as error:
            raise SaRefused(of_error(error), error.notify) from None
        return payloads

    def _exchange(self, request: OpenedMessage) -> Steps[Payloads]:
        session, method = self.session, self.session.kes_due[0].id
        ke = need(request.payloads, KePayload)
        check_public(ke, method)
        worked = yield from work(partial(kex.respond, ke.method, ke.data))
        payloads = (KePayload(ke.method, worked.value.public),)
        session.int_auth.add(session.crypto.suite.prf, session.crypto.keys.sk_pi, request.int_auth, is_response=False)
        _cover_own(session, payloads, FLAG_RESPONSE)
        _change_keys(session, self._init, worked.value.shared)
        session.kes_due = session.kes_due[1:]
        return payloads


def _cover_own(session: Session, payloads: Payloads, flags: int) -> None:
    """Take a message of ours into what AUTH covers, before its exchange changes the keys."""
    crypto, is_response = session.crypto, flags == FLAG_RESPONSE
    header = IkeHeader(crypto.spi_i, crypto.spi_r, PayloadType.SK, VERSION, ExchangeType.IKE_INTERMEDIATE, flags,
                       session.int_auth.message_id, 0)
    sk_p = crypto.keys.sk_pr if is_response else crypto.keys.sk_pi
    session.int_auth.add(crypto.suite.prf, sk_p, covered(header, *build_payloads(payloads)), is_response=is_response)


def _change_keys(session: Session, init: InitResult, shared: Secret) -> None:
    crypto = session.crypto
    keys = rekeyed_ike_keys(crypto.suite.prf, crypto.keys.sk_d, crypto.suite, ni=init.ni, nr=init.nr, shared=shared,
                            spi_i=crypto.spi_i, spi_r=crypto.spi_r)
    session.crypto = replace(crypto, keys=keys)


def _concluded(init: InitResult, session: Session) -> InitResult:
    """Return what IKE_AUTH builds on: the last keys, and what AUTH covers beside IKE_SA_INIT."""
    return replace(init, crypto=session.crypto, int_auth=session.int_auth.value())

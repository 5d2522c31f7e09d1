"""OCSP responses about our own certificates, fetched ahead of need: IKE_AUTH sends what is at hand (RFC 4806)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ipsecd.effects import FetchRevocation
from ipsecd.ike.crypto.revocation import about
from ipsecd.policy import Credential, Policy
from ipsecd.runtime import clock
from ipsecd.runtime.revocation import RevocationFetcher

LOOK_S = 60.0               # after a reload, or where a responder was silent; what is fresh is not asked for again


async def keep_at_hand(fetcher: RevocationFetcher, policy: Callable[[], Policy]) -> None:
    """Have what the certificates of the policy in force name, for ever."""
    while True:
        for certificate, issuer in dict.fromkeys(_own(policy())):
            queries = await asyncio.to_thread(about, certificate, issuer, wall_now=clock.wall())
            await fetcher.answer(FetchRevocation(0, queries))
        await asyncio.sleep(LOOK_S)


def _own(policy: Policy) -> Iterator[tuple[bytes, bytes]]:
    """Yield each certificate of ours with its issuer, where that is known."""
    for peer in policy.peers:
        for credential in (peer.auth.local, *peer.auth.others):
            if isinstance(credential, Credential) and credential.issuer and not credential.raw:
                yield credential.chain[0], credential.issuer

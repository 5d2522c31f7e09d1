"""Why something failed, in words an operator can act on: one catalogue for events, status and documents.

A Failure is a value: the cause, what each side offered, and the peer's own notify beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Cause(StrEnum):
    """What went wrong; the value is the stable name in JSON and metrics."""

    NO_PROPOSAL = "no_proposal"
    NO_CHILD_PROPOSAL = "no_child_proposal"
    POST_QUANTUM = "post_quantum"
    KE_REFUSED = "ke_refused"
    AH_BEHIND_NAT = "ah_behind_nat"
    AUTHENTICATION_FAILED = "authentication_failed"
    PEER_REFUSED_AUTH = "peer_refused_auth"
    WRONG_IDENTITY = "wrong_identity"
    UNKNOWN_IDENTITY = "unknown_identity"
    CERTIFICATE_REFUSED = "certificate_refused"
    AUTH_METHOD = "auth_method"
    PPK_MISMATCH = "ppk_mismatch"
    TOKEN_FAILED = "token_failed"
    OCCUPIED = "occupied"
    TS_UNACCEPTABLE = "ts_unacceptable"
    PFS_MISMATCH = "pfs_mismatch"
    NO_NAT_TRAVERSAL = "no_nat_traversal"
    PEER_SILENT = "peer_silent"
    PEER_DEAD = "peer_dead"
    IKEV1_ONLY = "ikev1_only"
    PEER_VERSION = "peer_version"
    INVALID_SYNTAX = "invalid_syntax"
    RETRY_LOOP = "retry_loop"
    NO_ADDITIONAL_SAS = "no_additional_sas"
    TEMPORARY_FAILURE = "temporary_failure"
    CHILD_NOT_FOUND = "child_not_found"
    PEER_DELETED = "peer_deleted"
    REPLACED = "replaced"
    OPERATOR = "operator"
    RELOADED = "reloaded"
    EXPIRED = "expired"
    NAME_UNRESOLVED = "name_unresolved"
    NO_ROUTE = "no_route"
    MODE_MISMATCH = "mode_mismatch"
    REDIRECTED = "redirected"
    REDIRECT_REFUSED = "redirect_refused"
    REDIRECT_LOOP = "redirect_loop"
    TRANSPORT_ADDRESSES = "transport_addresses"
    PEER_ERROR = "peer_error"
    LOCAL_ERROR = "local_error"
    SHUTDOWN = "shutdown"


class Advice(NamedTuple):
    """What a cause means and what to change."""

    summary: str
    hint: str


CATALOGUE: dict[Cause, Advice] = {
    Cause.NO_PROPOSAL: Advice("no common IKE proposal", "align peers.P.ike.proposals with what the peer offers"),
    Cause.NO_CHILD_PROPOSAL: Advice("no common ESP or AH proposal",
                                    "align peers.P.children.C.esp.proposals, or ah.proposals, with what the peer "
                                    "offers"),
    Cause.POST_QUANTUM: Advice("the peer makes no post-quantum key exchange, and its entry demands one",
                               "let the peer offer ML-KEM (ke1_mlkem768), or set peers.P.ike.post_quantum: preferred"),
    Cause.KE_REFUSED: Advice("the peer wants a key exchange group that we do not offer",
                             "add the group to peers.P.ike.proposals or esp.proposals"),
    Cause.AH_BEHIND_NAT: Advice("AH cannot pass a NAT, and there is one between the ends, or the peer says so to force "
                                "UDP encapsulation",
                                "give the child esp in place of ah on both ends, or reach the peer without a NAT"),
    Cause.AUTHENTICATION_FAILED: Advice("the peer did not prove its identity",
                                        "compare the key or the authorities in peers.P.auth with the peer's"),
    Cause.PEER_REFUSED_AUTH: Advice("the peer refused our authentication",
                                    "compare gateway.identity and our key or certificate with what the peer expects"),
    Cause.WRONG_IDENTITY: Advice("the peer has another identity than configured", "set peers.P.identity to it"),
    Cause.UNKNOWN_IDENTITY: Advice("no peer entry has this identity", "add a peer entry with that identity"),
    Cause.CERTIFICATE_REFUSED: Advice("the peer's certificate does not prove its identity",
                                      "compare it with peers.P.identity and the authorities (gateway.authorities, "
                                      "peers.P.auth)"),
    Cause.AUTH_METHOD: Advice("the peer authenticates by a method that its entry does not allow",
                              "align peers.P.auth with the peer's method"),
    Cause.PPK_MISMATCH: Advice("the two ends do not share the post-quantum pre-shared key that one of them requires",
                               "compare id and key of peers.P.ppk with the peer's, or set peers.P.ppk.required: false"),
    Cause.TOKEN_FAILED: Advice("the token that holds our private key does not sign",
                               "look at the token, its library and its PIN, then reload; gateway.private_key or "
                               "peers.P.auth.private_key names the key"),
    Cause.OCCUPIED: Advice("an older IKE SA of the same identity lives, and its entry has unique: reject",
                           "close it with ipsecctl down, or set peers.P.ike.unique to replace"),
    Cause.TS_UNACCEPTABLE: Advice("no common traffic selectors",
                                  "align peers.P.children.C.local and remote with the peer, or set ts_style: per-pair"),
    Cause.PFS_MISMATCH: Advice("the two ends disagree on key exchange in CREATE_CHILD_SA",
                               "align peers.P.children.C.esp.pfs and its groups with the peer"),
    Cause.NO_NAT_TRAVERSAL: Advice("the peer does no NAT traversal, so it takes no ESP in UDP",
                                   "switch NAT traversal on at the peer, or set peers.P.encapsulation: auto"),
    Cause.PEER_SILENT: Advice("the peer does not answer",
                              "check its address, that UDP 500 and 4500 pass, and that its daemon runs"),
    Cause.PEER_DEAD: Advice("the peer stopped answering", "none needed: the tunnel is retried for ever"),
    Cause.IKEV1_ONLY: Advice("the peer speaks IKEv1 only", "switch the peer to IKEv2"),
    Cause.PEER_VERSION: Advice("the peer speaks another major version of IKE", "switch the peer to IKEv2"),
    Cause.INVALID_SYNTAX: Advice("a message does not follow the protocol", "capture the exchange and report it"),
    Cause.RETRY_LOOP: Advice("the peer keeps asking for a cookie or another group", "look at the peer's log"),
    Cause.NO_ADDITIONAL_SAS: Advice("the peer allows no more Child SAs", "raise the peer's limit or merge children"),
    Cause.TEMPORARY_FAILURE: Advice("the peer is busy with a colliding exchange", "none needed: it is retried"),
    Cause.CHILD_NOT_FOUND: Advice("the peer lost the Child SA", "none needed: it is made anew"),
    Cause.PEER_DELETED: Advice("the peer closed the SA", "look at the peer's log if this repeats"),
    Cause.REPLACED: Advice("a newer SA of the same peer took over", "none needed"),
    Cause.OPERATOR: Advice("closed by ipsecctl", "ipsecctl up brings it back"),
    Cause.RELOADED: Advice("closed because the configuration changed", "none needed"),
    Cause.EXPIRED: Advice("the hard lifetime ended before a rekey succeeded", "see the rekey's own failure"),
    Cause.NAME_UNRESOLVED: Advice("the peer's name has no address", "check peers.P.address and the resolver"),
    Cause.NO_ROUTE: Advice("this host has no route or address toward the peer", "check addresses and default route"),
    Cause.MODE_MISMATCH: Advice("the ends disagree on tunnel and transport mode", "align peers.P.children.C.mode"),
    Cause.REDIRECTED: Advice("the peer sent us to another gateway", "none needed: the tunnel is made there"),
    Cause.REDIRECT_REFUSED: Advice("the peer sends us to a gateway where its entry does not let us go",
                                   "set peers.P.ike.redirect to true or to a list with that gateway, or let the peer "
                                   "serve us itself"),
    Cause.REDIRECT_LOOP: Advice("the gateways of the peer send us around",
                                "look at where they send us, or set peers.P.ike.redirect to the ones to go to"),
    Cause.TRANSPORT_ADDRESSES: Advice("transport mode protects only what the two ends of IKE send each other",
                                      "set peers.P.children.C.local and remote to the addresses that IKE uses, or "
                                      "mode: tunnel"),
    Cause.PEER_ERROR: Advice("the peer answered with an error", "see its notify and the peer's log"),
    Cause.LOCAL_ERROR: Advice("a fault in ipsecd", "report the event; the SA was closed and is retried"),
    Cause.SHUTDOWN: Advice("the daemon stopped", "none needed"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure with its evidence; `ours` and `theirs` are what each side offered or said, printable."""

    cause: Cause
    detail: str = ""
    ours: str = ""
    theirs: str = ""
    notify: str = ""        # the peer's notify by name, empty where it sent none
    where: str = ""         # "file:line key" of what to change; the edge, which knows the files, puts it in

    @property
    def summary(self) -> str:
        """One sentence: the cause, then the detail."""
        text = CATALOGUE[self.cause].summary
        return f"{text}: {self.detail}" if self.detail else text

    @property
    def hint(self) -> str:
        """What to change."""
        return CATALOGUE[self.cause].hint

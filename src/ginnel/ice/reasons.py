"""Why a pair of machines can't be direct, in words for a person.

Knows what was tried (candidates, answers, kinds of NAT) and guesses the cause from it. Every text
about a path that a relay would mend starts with `needs a relay: `.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from ginnel.base.addresses import is_public
from ginnel.ice.candidate import Candidate, CandidateKind

RELAY = "needs a relay: "


class NatKind(IntEnum):
    """How the addresses of one side behave; the number is the one on the wire of offers."""

    UNKNOWN = 0
    OPEN = 1  # the address seen from outside is its own
    CONE = 2  # one port for all observers (RFC 4787: endpoint-independent mapping)
    SYMMETRIC = 3  # another port for each observer
    RESTRICTED = 4  # as CONE, and known to let in only addresses and ports that were written to
    BLOCKED = 5  # nothing comes by UDP from outside, while a relay is reached over TCP


def guess_nat(
    candidates: Sequence[Candidate], *, symmetric: bool = False, restricted: bool = False
) -> NatKind:
    """Return the kind of NAT that local candidates show.

    `symmetric` and `restricted` (filters by address and port) as observers saw it.
    """
    if symmetric:
        return NatKind.SYMMETRIC
    if any(c.kind is CandidateKind.SRFLX and c.address != c.base for c in candidates):
        return NatKind.RESTRICTED if restricted else NatKind.CONE
    if any(is_public(c.address.ip) and c.kind is not CandidateKind.RELAY for c in candidates):
        return NatKind.RESTRICTED if restricted else NatKind.OPEN  # a firewall, without NAT
    if any(c.is_over_stream for c in candidates):  # that takes longer than to ask an observer
        return NatKind.BLOCKED
    return NatKind.UNKNOWN


def is_hopeless(nats: tuple[NatKind, NatKind]) -> bool:
    """Say whether machines behind these NATs can't be direct, but for those of one home.

    A NAT that changes ports can be met only by one that lets in unknown ports (RFC 4787).
    """
    if NatKind.BLOCKED in nats:
        return True
    return NatKind.SYMMETRIC in nats and all(
        nat in (NatKind.SYMMETRIC, NatKind.RESTRICTED) for nat in nats
    )


def explain_failure(
    local: Sequence[Candidate],
    remote: Sequence[Candidate],
    nats: tuple[NatKind, NatKind],
    *,
    pairs: int,
    limited: int,
) -> str:
    """Return why no check got through; `nats`: ours and theirs; `limited`: checks held back."""
    if not local:
        return "this machine has no usable network address"
    if not remote:
        return "the other side sent no usable address"
    if not pairs:
        return RELAY + "the two sides have no address family (IPv4, IPv6) in common"
    if NatKind.UNKNOWN in nats and not limited:
        who = "this side knows no" if nats[0] is NatKind.UNKNOWN else "the other side knows no"
        who = "neither side knows an" if nats[0] is nats[1] else who
        return (
            f"{RELAY}no check was answered, and {who} address seen from outside; if UDP is blocked "
            "there, it takes a TURN server over TCP or TLS"
        )
    if NatKind.BLOCKED in nats:
        who = "this side" if nats[0] is NatKind.BLOCKED else "the other side"
        return f"{RELAY}no UDP gets out on {'both sides' if nats[0] is nats[1] else who}"
    symmetric = nats.count(NatKind.SYMMETRIC)
    if symmetric == 2:
        return RELAY + "both sides are behind NATs that change ports (symmetric, symmetric)"
    if symmetric == 1:
        here, there = (
            ("this side", "the other")
            if nats[0] is NatKind.SYMMETRIC
            else ("the other side", "this one")
        )
        return (
            f"{RELAY}both sides are behind NATs that keep each other out (symmetric, "
            f"port-restricted): {here}'s changes ports, {there}'s lets in only known ones"
        )
    if limited:
        return f"{limited} checks were held back: too many unanswered ones to these addresses"
    return RELAY + "no check was answered (UDP blocked, or a firewall on the way)"

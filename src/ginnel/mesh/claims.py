"""Who keeps a key, an address or a name that several live members claim: the elder.

The loser of a name is shown under another, the loser of a key or address is refused; both raise
an alarm. Which certificates are live is `membership.py`'s business.

Source: docs/formats.md, "Checks of a cert".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ginnel.base.types import MemberId
from ginnel.mesh.alarms import Alarm, AlarmBook, AlarmKind
from ginnel.mesh.certcheck import claims_of
from ginnel.mesh.objects import MAX_NAME, Certificate

_KINDS = {"name": AlarmKind.NAME_CONFLICT, "ip": AlarmKind.ADDRESS_CONFLICT}


@dataclass(frozen=True, slots=True)
class Member:
    """A current certificate and the name that its member is shown under."""

    cert: Certificate
    name: str


class ClaimTable:
    """What is taken, and by whom."""

    def __init__(self, alarms: AlarmBook) -> None:
        self._alarms = alarms
        self._taken: dict[tuple[str, bytes | str], MemberId] = {}

    def assign(self, certs: Iterable[Certificate]) -> dict[bytes, Member]:
        """Begin anew: return those of these members who keep what they claim, by member id."""
        members: dict[bytes, Member] = {}
        self._taken = {}
        for cert in sorted(certs, key=lambda cert: cert.seniority):
            clash = next((claim for claim in claims_of(cert) if claim in self._taken), None)
            if clash is not None:
                self._alarm(cert, *clash)
                continue
            name = cert.name
            if ("name", name) in self._taken:
                self._alarm(cert, "name", name)
                name = f"{name[: MAX_NAME - 5]}-{cert.member_id.hex()[:4]}"
            members[cert.member_id] = self._take(cert, name)
        return members

    def admit(self, cert: Certificate) -> Member | None:
        """Add a new member who clashes with nobody; None: all must be assigned anew."""
        claims = [*claims_of(cert), ("name", cert.name)]
        if any(claim in self._taken for claim in claims):
            return None
        return self._take(cert, cert.name)

    def _take(self, cert: Certificate, name: str) -> Member:
        claims = [*claims_of(cert), ("name", name)]
        self._taken.update(dict.fromkeys(claims, cert.member_id))
        return Member(cert, name)

    def _alarm(self, cert: Certificate, what: str, value: bytes | str) -> None:
        detail = f"{what} belongs to {self._taken[what, value].hex()[:8]}"
        kind = _KINDS.get(what, AlarmKind.KEY_CONFLICT)
        self._alarms.add(Alarm(kind, cert.member_id, cert.name, detail), cert.object.hash)

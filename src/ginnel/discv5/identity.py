"""Our own record: its fields, the addresses it publishes, its sequence number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret
from ginnel.discv5.enr import Enr, FieldValue, address_fields, fields_of, sign_enr

_ADDRESS_KEYS = {False: ("ip", "udp"), True: ("ip6", "udp6")}  # by version, the IP first


def without_addresses(fields: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    """Return the fields that say nothing of where the node takes UDP."""
    named = [key for keys in _ADDRESS_KEYS.values() for key in keys]
    return {key: value for key, value in fields.items() if key not in named}


def continued(previous: Enr, versions: Sequence[int]) -> dict[str, FieldValue]:
    """Return the fields that the next record begins with.

    Args:
        versions: IP versions of which the address is kept.
    """
    fields = without_addresses(fields_of(previous))
    for address in previous.addresses:
        if (6 if address.is_ipv6 else 4) in versions:
            fields |= address_fields(address)
    return fields


class LocalRecord:
    """The local node's record, signed again on each change.

    An address that was given is configured: one that was learned never replaces it. One of the
    previous record counts as learned.

    Args:
        fields: take the place of the previous record's.
        seq: the first record's; give a higher one than the last run's.
        previous: the last run's record, which goes on; seq rises only if anything else changed.
        versions: IP versions of which the previous record's address is kept.

    Raises:
        UsageError: the record would be too long, or the previous one is of another key.
    """

    def __init__(
        self,
        private_key: Secret,
        fields: Mapping[str, FieldValue],
        endpoints: Sequence[Address],
        seq: int,
        previous: Enr | None = None,
        versions: Sequence[int] = (4, 6),
    ) -> None:
        self._private_key = private_key
        before = {} if previous is None else continued(previous, versions)
        self._fields = before | dict(fields)
        self._learned = {  # IP versions whose address among the fields is the previous record's
            ipv6: None
            for ipv6, (key, _) in _ADDRESS_KEYS.items()
            if key in before and key not in fields
        }
        self._endpoints: dict[bool, Address] = {}
        self._configured: dict[bool, None] = {}
        for endpoint in endpoints:
            self._endpoints[endpoint.is_ipv6] = endpoint
            self._configured[endpoint.is_ipv6] = None
        self.record = self._sign(seq if previous is None else max(seq, previous.seq))
        if previous is not None and previous.public_key != self.record.public_key:
            raise UsageError("the previous record is of another key")
        if previous is not None and previous.raw != self.record.raw and seq <= previous.seq:
            self.record = self._sign(previous.seq + 1)

    def endpoint(self, ipv6: bool = False) -> Address | None:
        """Return the published address, or None."""
        return self.record.address(ipv6)

    def is_configured(self, ipv6: bool) -> bool:
        """Say whether the address was given, as address or among the fields, and not learned."""
        is_among_fields = _ADDRESS_KEYS[ipv6][0] in self._fields and ipv6 not in self._learned
        return ipv6 in self._configured or is_among_fields

    def set_endpoint(self, address: Address | None, ipv6: bool, *, learned: bool = False) -> bool:
        """Publish another address (None: none); return whether the record changed.

        Raises:
            UsageError: the record would be too long; nothing has changed then.
        """
        is_new = self.endpoint(ipv6) != address
        if is_new:
            fields, endpoints = dict(self._fields), dict(self._endpoints)
            for key in _ADDRESS_KEYS[ipv6]:
                fields.pop(key, None)
            endpoints.pop(ipv6, None)
            if address is not None:
                endpoints[ipv6] = address
            self._renew(fields, endpoints)
        if address is None or learned:
            self._configured.pop(ipv6, None)
        else:
            self._configured[ipv6] = None
        return is_new

    def update(self, changes: Mapping[str, FieldValue | None]) -> None:
        """Replace these fields, remove those that are None, and raise the sequence number.

        Fields of an address that are named here are configured from now on.

        Raises:
            UsageError: the record would be too long; nothing has changed then.
        """
        fields, endpoints = dict(self._fields), dict(self._endpoints)
        named = [ipv6 for ipv6, keys in _ADDRESS_KEYS.items() if any(k in changes for k in keys)]
        for ipv6 in named:
            if ipv6 in endpoints:
                fields |= address_fields(endpoints.pop(ipv6))
        fields |= {key: value for key, value in changes.items() if value is not None}
        for key, value in changes.items():
            if value is None:
                fields.pop(key, None)
        self._renew(fields, endpoints)
        for ipv6 in named:
            self._learned.pop(ipv6, None)
            self._configured.pop(ipv6, None)  # that the fields name it says so as well

    def _renew(self, fields: dict[str, FieldValue], endpoints: dict[bool, Address]) -> None:
        before = self._fields, self._endpoints
        self._fields, self._endpoints = fields, endpoints
        try:
            self.record = self._sign(self.record.seq + 1)
        except UsageError:
            self._fields, self._endpoints = before
            raise

    def _sign(self, seq: int) -> Enr:
        fields = dict(self._fields)
        for address in self._endpoints.values():
            fields |= address_fields(address)
        return sign_enr(self._private_key.reveal(), seq, fields)

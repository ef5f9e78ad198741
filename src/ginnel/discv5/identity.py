"""Our own record: its fields, the addresses it publishes, its sequence number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret
from ginnel.discv5.enr import Enr, FieldValue, address_fields, sign_enr


class LocalRecord:
    """The local node's record, signed again on each change.

    An address that was given is configured: one that was learned never replaces it.

    Args:
        seq: the first record's; give a higher one than the last run's.
        previous: the last run's record: its seq rises only if anything else changed.

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
    ) -> None:
        self._private_key = private_key
        self._fields = dict(fields)
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
        return self._endpoints.get(ipv6)

    def is_configured(self, ipv6: bool) -> bool:
        """Say whether the address was given, not learned."""
        return ipv6 in self._configured

    def set_endpoint(self, address: Address | None, ipv6: bool, *, learned: bool = False) -> bool:
        """Publish another address (None: none); return whether the record changed."""
        if address is None or learned:
            self._configured.pop(ipv6, None)
        else:
            self._configured[ipv6] = None
        if self._endpoints.get(ipv6) == address:
            return False
        if address is None:
            del self._endpoints[ipv6]
        else:
            self._endpoints[ipv6] = address
        self.record = self._sign(self.record.seq + 1)
        return True

    def update(self, fields: Mapping[str, FieldValue | None]) -> None:
        """Replace these fields, remove those that are None, and raise the sequence number.

        Raises:
            UsageError: the record would be too long; nothing has changed then.
        """
        before = self._fields
        changed = {**before, **fields}
        self._fields = {key: value for key, value in changed.items() if value is not None}
        try:
            self.record = self._sign(self.record.seq + 1)
        except UsageError:
            self._fields = before
            raise

    def _sign(self, seq: int) -> Enr:
        fields = dict(self._fields)
        for address in self._endpoints.values():
            fields.update(address_fields(address))
        return sign_enr(self._private_key.reveal(), seq, fields)

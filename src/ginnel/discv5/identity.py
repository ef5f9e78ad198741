"""Our own record: its fields, the addresses it publishes, its sequence number."""

from __future__ import annotations

from collections.abc import Mapping

from ginnel.base.types import Address, Secret
from ginnel.discv5.enr import Enr, FieldValue, address_fields, sign_enr


class LocalRecord:
    """The local node's record, signed again on each change.

    Args:
        seq: the first record's; give a higher one than the last run's.
    """

    def __init__(
        self,
        private_key: Secret,
        fields: Mapping[str, FieldValue],
        endpoint: Address | None,
        seq: int,
    ) -> None:
        self._private_key = private_key
        self._fields = dict(fields)
        self._endpoints: dict[bool, Address] = {}
        if endpoint is not None:
            self._endpoints[endpoint.is_ipv6] = endpoint
        self.record = self._sign(seq)

    def endpoint(self, ipv6: bool = False) -> Address | None:
        """Return the published address, or None."""
        return self._endpoints.get(ipv6)

    def set_endpoint(self, address: Address | None, ipv6: bool) -> bool:
        """Publish another address (None: none); return whether the record changed."""
        if self._endpoints.get(ipv6) == address:
            return False
        if address is None:
            del self._endpoints[ipv6]
        else:
            self._endpoints[ipv6] = address
        self.record = self._sign(self.record.seq + 1)
        return True

    def update(self, fields: Mapping[str, FieldValue]) -> None:
        """Replace these fields and raise the sequence number."""
        self._fields.update(fields)
        self.record = self._sign(self.record.seq + 1)

    def _sign(self, seq: int) -> Enr:
        fields = dict(self._fields)
        for address in self._endpoints.values():
            fields.update(address_fields(address))
        return sign_enr(self._private_key.reveal(), seq, fields)

"""What is asked of a UPnP router, and what its refusals lead to; a real one is in the lab."""

from __future__ import annotations

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address
from ginnel.net.upnp import MAX_TRIES, UpnpMapping, add_mapping, find_router, remove_mapping


class ToyRouter:
    """Grants, or refuses in the library's words."""

    lanaddr = "192.168.1.2"

    def __init__(self, taken: tuple[int, ...] = (), *, permanent_only: bool = False) -> None:
        self.taken = taken
        self.permanent_only = permanent_only
        self.mapped: dict[int, tuple[str, int, int]] = {}
        self.ip = "203.0.113.5"

    def externalipaddress(self) -> str:
        return self.ip

    def addportmapping(
        self,
        external_port: int,
        protocol: str,
        host: str,
        port: int,
        description: str,
        remote: str,
        lease: int,
        /,
    ) -> bool:
        assert (protocol, description, remote) == ("UDP", "ginnel", "")
        if external_port in self.taken:
            raise OSError("ConflictInMappingEntry")
        if self.permanent_only and lease:
            raise OSError("OnlyPermanentLeasesSupported")
        self.mapped[external_port] = (host, port, lease)
        return True

    def deleteportmapping(self, external_port: int, protocol: str, /) -> bool:
        if external_port not in self.mapped:
            raise OSError("NoSuchEntryInArray")
        del self.mapped[external_port]
        return True


def test_a_port_is_mapped_and_removed() -> None:
    router = ToyRouter()
    mapping = add_mapping(router, 4000, 4000, 7200)
    assert mapping == UpnpMapping(Address("203.0.113.5", 4000), 7200)
    assert router.mapped == {4000: ("192.168.1.2", 4000, 7200)}
    remove_mapping(router, 4000)
    assert router.mapped == {}
    with pytest.raises(SystemFailure, match="NoSuchEntry"):
        remove_mapping(router, 4000)


def test_a_router_with_permanent_leases_only() -> None:
    router = ToyRouter(permanent_only=True)
    assert add_mapping(router, 4000, 4000, 7200).lifetime == 0
    assert router.mapped[4000][2] == 0


def test_a_taken_port_leads_to_another() -> None:
    router = ToyRouter(taken=(65_000,))
    mapping = add_mapping(router, 4000, 65_000, 7200)
    assert 1024 <= mapping.address.port != 65_000
    router = ToyRouter(taken=tuple(range(65_536)))
    with pytest.raises(SystemFailure, match="Conflict"):
        add_mapping(router, 4000, 4000, 7200)
    assert MAX_TRIES == 4


def test_a_router_without_an_outer_address() -> None:
    router = ToyRouter()
    router.ip = ""
    with pytest.raises(SystemFailure, match="no outer address"):
        add_mapping(router, 4000, 4000, 7200)


def test_where_no_router_is_that_is_said() -> None:
    with pytest.raises(SystemFailure, match="UPnP: no router found"):
        find_router("127.0.0.1")

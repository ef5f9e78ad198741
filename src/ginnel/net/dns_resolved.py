"""systemd-resolved over D-Bus: servers and domains of one device, split from all other names.

Source: org.freedesktop.resolve1(5).
"""

from __future__ import annotations

import socket
from importlib import import_module
from ipaddress import ip_address
from typing import Any

from ginnel.base.errors import SystemFailure
from ginnel.net.dns import DnsPlan

BUS_TIMEOUT = 5.0  # seconds for one call
_NAME = "org.freedesktop.resolve1"
_PATH = "/org/freedesktop/resolve1"
_MANAGER = "org.freedesktop.resolve1.Manager"
_GONE = ("NoSuchLink", "LinkBusy")


class Resolved:
    """resolved's entries of one device; they go with the device too."""

    name = "systemd-resolved"
    needs_forwarder = False

    def __init__(self, device: str) -> None:
        self._device = device

    @classmethod
    def find(cls, device: str) -> Resolved | None:
        """Return one if resolved runs here."""
        try:
            with _Bus() as bus:
                reply = bus.call(
                    ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"),
                    "NameHasOwner",
                    "s",
                    (_NAME,),
                )
        except SystemFailure:
            return None
        return cls(device) if reply and reply[0] else None

    def apply(self, plan: DnsPlan) -> None:
        """Set servers and domains; other names never go to these servers."""
        index = self._index()
        servers = [_server(text) for text in plan.servers]
        domains = [(name, False) for name in plan.search] + [(name, True) for name in plan.match]
        with _Bus() as bus:
            for method, signature, body in (
                ("SetLinkDNS", "ia(iay)", (index, servers)),
                ("SetLinkDomains", "ia(sb)", (index, domains)),
                ("SetLinkDefaultRoute", "ib", (index, False)),
                ("SetLinkDNSSEC", "is", (index, "no")),  # nobody signs a private zone
                ("SetLinkDNSOverTLS", "is", (index, "no")),
                ("SetLinkLLMNR", "is", (index, "no")),
                ("SetLinkMulticastDNS", "is", (index, "no")),
                ("FlushCaches", "", ()),
            ):
                bus.call((_PATH, _NAME, _MANAGER), method, signature, body)

    def take_back(self) -> None:
        """Revert the device; harmless if it is gone."""
        try:
            index = self._index()
        except SystemFailure:
            return  # resolved forgot it with the device
        with _Bus() as bus:
            try:
                bus.call((_PATH, _NAME, _MANAGER), "RevertLink", "i", (index,))
                bus.call((_PATH, _NAME, _MANAGER), "FlushCaches", "", ())
            except SystemFailure as error:
                if not any(name in str(error) for name in _GONE):
                    raise

    def is_in_place(self) -> bool:
        """Say yes: nobody else sets our device's entries."""
        return True

    def _index(self) -> int:
        try:
            return socket.if_nametoindex(self._device)
        except OSError:
            raise SystemFailure(f"dns_settings: no device {self._device}") from None


class _Bus:
    """A connection to the system bus; its library is loaded only here."""

    def __enter__(self) -> _Bus:
        self._jeepney: Any = import_module("jeepney")
        blocking: Any = import_module("jeepney.io.blocking")
        try:
            self._connection = blocking.open_dbus_connection("SYSTEM")
        except (OSError, ValueError, EOFError, self._jeepney.AuthenticationError) as error:
            raise SystemFailure(f"dns_settings: no system bus: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(
        self, where: tuple[str, str, str], method: str, signature: str, body: tuple[object, ...]
    ) -> tuple[Any, ...]:
        """Call a method and return its reply's body. Raises SystemFailure."""
        path, name, interface = where
        address = self._jeepney.DBusAddress(path, bus_name=name, interface=interface)
        message = self._jeepney.new_method_call(address, method, signature or None, body)
        try:
            reply = self._connection.send_and_get_reply(message, timeout=BUS_TIMEOUT)
        except (OSError, EOFError) as error:  # TimeoutError is one of them
            raise SystemFailure(f"dns_settings: {method}: {error or 'no answer'}") from None
        if reply.header.message_type == self._jeepney.MessageType.error:
            kind = reply.header.fields.get(self._jeepney.HeaderFields.error_name, "")
            said = reply.body[0] if reply.body else ""
            raise SystemFailure(f"dns_settings: {method}: {kind} {said}")
        return tuple(reply.body)


def _server(text: str) -> tuple[int, bytes]:
    address = ip_address(text)
    return (socket.AF_INET6 if address.version == 6 else socket.AF_INET), address.packed

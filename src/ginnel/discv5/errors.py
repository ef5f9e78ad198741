"""What a caller of discovery can get instead of an answer."""

from __future__ import annotations

from ginnel.base.errors import GinnelError, UsageError
from ginnel.discv5.requests import Failure


class RequestError(GinnelError):
    """A request got no answer that we could use; `reason` says why."""

    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.value)
        self.reason = reason


class RequestTimeout(RequestError):
    """No answer came in time."""


class RequestRefused(RequestError):
    """The answer was of the wrong kind, or we could not send: too many under way, closed."""


class NoAddressError(UsageError):
    """The record has no address that we can send to."""


class MessageTooLarge(UsageError):
    """The message does not fit into one packet of 1280 bytes."""


def error_of(reason: Failure) -> RequestError:
    """Return the error that a failure is told as."""
    return RequestTimeout(reason) if reason is Failure.TIMEOUT else RequestRefused(reason)

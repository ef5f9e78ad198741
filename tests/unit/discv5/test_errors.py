"""Errors of requests by their reason."""

from __future__ import annotations

from ginnel.base.errors import UsageError
from ginnel.discv5.errors import (
    MessageTooLarge,
    NoAddressError,
    RequestRefused,
    RequestTimeout,
    error_of,
)
from ginnel.discv5.requests import Failure


def test_each_failure_has_its_type() -> None:
    assert isinstance(error_of(Failure.TIMEOUT), RequestTimeout)
    for reason in (Failure.WRONG_ANSWER, Failure.TOO_MANY, Failure.CLOSED):
        error = error_of(reason)
        assert isinstance(error, RequestRefused)
        assert error.reason is reason
    assert issubclass(NoAddressError, UsageError)
    assert issubclass(MessageTooLarge, UsageError)

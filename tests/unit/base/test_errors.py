"""Three kinds of errors, by whose fault it is, and one base."""

import pytest

from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.rlp import RlpError

KINDS = (RemoteProtocolError, SystemFailure, UsageError)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_ginnel_error_and_no_other_kind(kind: type[GinnelError]) -> None:
    assert issubclass(kind, GinnelError)
    assert [other for other in KINDS if issubclass(kind, other)] == [kind]


def test_bad_rlp_is_the_remotes_fault() -> None:
    assert issubclass(RlpError, RemoteProtocolError)

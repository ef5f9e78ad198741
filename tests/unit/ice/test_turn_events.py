"""What the server's refusals mean, in words."""

import pytest

from ginnel.ice.turn_events import explain


@pytest.mark.parametrize("code", [0, 300, 401, 403, 437, 438, 441, 442, 486, 508, 599])
def test_every_error_has_words(code: int) -> None:
    assert explain(code).startswith("the relay")

"""Defaults that others rely on."""

from __future__ import annotations

from typing import Any

import pytest

from ginnel.base.errors import UsageError
from ginnel.discv5.config import DiscoveryConfig


def test_defaults_of_the_seed() -> None:
    config = DiscoveryConfig()
    assert config.protocol_id == b"discv5"
    assert (config.handshake_timeout, config.response_timeout) == (2.0, 4.0)
    assert (config.alpha, config.lookup_distances, config.result_limit) == (3, 3, 16)
    assert (config.bucket_size, config.refresh_interval, config.session_limit) == (16, 300, 256)
    assert (config.table_ip_limit, config.bucket_ip_limit) == (10, 2)
    assert (config.records_per_packet, config.fill_packets, config.bits_per_hop) == (3, True, 5)
    assert (config.revalidate_max, config.majority_interval, config.vote_lifetime) == (10, 300, 600)
    assert config.met_ping_max <= 5
    assert not config.auto_update
    assert not config.client_mode
    assert config.ban_strikes > 0


def test_a_request_is_sent_after_a_stale_challenge_ended() -> None:
    config = DiscoveryConfig()
    last = config.retransmit_after * config.retransmits
    assert config.handshake_timeout < last < config.response_timeout


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol_id": b"eth"},
        {"protocol_id": b"discv5x"},
        {"alpha": 0},
        {"session_limit": 0},
        {"response_timeout": -1.0},
        {"queue_limit": -1},
        {"lookup_distances": 257},
    ],
)
def test_settings_that_could_not_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", ".")):
        DiscoveryConfig(**wrong)

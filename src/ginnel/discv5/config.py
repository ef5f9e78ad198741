"""Settings of discovery, with the defaults of seed 001 where it has them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ginnel.base.errors import UsageError
from ginnel.discv5.keys import NODE_ID_BITS
from ginnel.discv5.packet import DEFAULT_PROTOCOL_ID, PROTOCOL_ID_SIZE

_AT_LEAST_ONE = (
    "session_limit",
    "challenge_limit",
    "bucket_size",
    "bits_per_hop",
    "alpha",
    "ban_ip_factor",
    "lookup_distances",
    "result_limit",
    "records_per_packet",
    "response_packet_limit",
)

_AT_MOST = {"lookup_distances": NODE_ID_BITS}  # there are no more


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Settings of one node; times are seconds.

    Raises:
        UsageError: the protocol id has not 6 bytes, or a number is out of range.
    """

    protocol_id: bytes = DEFAULT_PROTOCOL_ID  # 6 bytes
    client_mode: bool = False  # publish no address until `set_endpoint` is called
    talk_protocols: tuple[bytes, ...] | None = None  # others get the empty answer; None: no others

    handshake_timeout: float = 2.0  # a challenge of ours can be answered for so long
    response_timeout: float = 4.0  # from sending a request until it fails
    retransmit_after: float = 0.6  # a request without answer is sent again after this
    retransmits: int = 5  # times, for 20 % loss; the last after an open challenge of 2 s has ended

    session_limit: int = 256  # sessions, by node id and address
    challenge_limit: int = 1024  # open challenges; one is 0.5 kB
    queue_limit: int = 8  # requests that wait for one handshake
    request_limit: int = 4096  # requests under way; more are refused
    talk_limit: int = 1024  # TALKREQs that our side has not answered yet
    talk_handlers: int = 64  # asynchronous talk handlers at work; TALKREQs beyond get no answer

    packet_rate: float = 2000.0  # packets a second looked at of one public source IP
    packet_burst: float = 8000.0  # packets saved up
    whoareyou_rate: float = 20.0  # challenges a second to one public source IP
    whoareyou_burst: float = 60.0  # challenges saved up
    request_rate: float = 200.0  # messages a second served to one public source IP
    request_burst: float = 800.0  # messages saved up
    subnet_factor: float = 4.0  # a public /24 or /48 may send so many times what one IP may
    ban_strikes: int = 5  # violations inside sessions until a node is banned; 0: never
    ban_ip_factor: int = 8  # its IP is banned after so many times as many, so by several nodes
    ban_time: float = 900.0  # a ban lasts for so long; violations count together for so long

    bucket_size: int = 16  # nodes of a bucket (k)
    replacement_limit: int = 8  # nodes of a replacement cache
    bits_per_hop: int = 5  # how far buckets split away from our own id
    table_ip_limit: int = 10  # nodes of one public /24 or /48 in the table
    bucket_ip_limit: int = 2  # the same in one bucket

    ip_versions: tuple[int, ...] = (4, 6)  # of our sockets; the first is preferred to send over

    alpha: int = 3  # requests of one lookup under way
    lookup_distances: int = 3  # distances of one lookup's request
    lookup_limit: int = 32  # lookups under way
    result_limit: int = 16  # records taken of one response and given out in one
    records_per_packet: int = 3  # records of one NODES: so many always fit
    fill_packets: bool = True  # more where the packet stays within 1280 bytes
    response_packet_limit: int = 16  # NODES packets taken of one response

    revalidate_max: float = 10.0  # a node is pinged after 0 to this
    met_ping_max: float = 1.0  # a node met by its handshake is pinged after 0 to this
    refresh_first: float = 5.0  # wait before the second lookup while few nodes are known; doubles
    refresh_interval: float = 300.0  # a lookup at least so often
    bootstrap_retry: float = 1.0  # first wait when no node answers; doubles up to the maximum
    bootstrap_retry_max: float = 30.0
    vote_lifetime: float = 600.0  # an observer's view of our address counts for so long
    majority_interval: float = 300.0  # the votes are counted so often for the record
    majority_votes: int = 3  # public /24s that must have voted on a public address
    auto_update: bool = False  # publish the address that the majority sees
    wanted_observers: int = 4  # other /24s whose view we ask for actively

    def __post_init__(self) -> None:
        """Refuse what could never work."""
        if len(self.protocol_id) != PROTOCOL_ID_SIZE:
            raise UsageError(f"a protocol id has {PROTOCOL_ID_SIZE} bytes: {self.protocol_id!r}")
        for item in fields(self):
            value = getattr(self, item.name)
            least = 1 if item.name in _AT_LEAST_ONE else 0
            most = _AT_MOST.get(item.name, float("inf"))
            if isinstance(value, int | float) and not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise UsageError(f"{item.name} is {bound}, not {value}")

"""The timers and bounds of a peer connection, and the reasons that it names.

Source: seed 000; FACTS, "What NetBird, Tailscale and Firezone learned".
"""

from __future__ import annotations

from enum import Enum

MAX_EARLY_SESSIONS = 2  # unknown sessions whose candidates are kept until their offer comes
MAX_ENDED_SESSIONS = 8  # ids kept, so that what comes late of an ended session starts nothing
ADDRESSES_FRESH = 1.0  # s after they were told in which our addresses are not asked for again
ADDRESSES_AGAIN = 5.0  # s until who gathers looks again where this machine has no address
OFFER_LIFE = 9.0  # s; an older offer is replaced by a new session, its answerer has given up
HANDSHAKE_WAIT = 3.0  # s that the controlled side waits for the other's handshake
FIRST_HANDSHAKE_TIMEOUT = 30.0  # s (FACTS: NetBird's watch)
HANDSHAKE_TIMEOUT = 210.0  # s between handshakes; WireGuard makes one every 120 s
UPGRADE_FIRST, UPGRADE_LAST = 60.0, 1800.0  # s between tries for direct while relayed; doubled
HYSTERESIS = 0.8  # a path must score this much better to be taken for a working one
MIN_GAIN = 0.001  # s of score, at least
RESTART_LIMIT = 30.0  # s without a path until an open that may end is `disconnected`
PUNCH_DELAY = 1.0  # s after the path is set; the other side's WireGuard is set up then
PUNCH = b"\x6e\x62"  # what opens a NAT for a WireGuard on a port of its own (seed 000)
LATE = 10.0  # s after a change of path in which packets on the one before are late, not a move
PROBE_TIMEOUT = 5.0  # s to hear WireGuard on a new path while the live one answers

PATH_LOST = "path does not answer"
SIGNALLING = "signalling: "  # what a signalling handler's error begins with as a reason
SILENT = "WireGuard does not answer on a path whose checks pass"


class Timer(Enum):
    """The timers of a connection."""

    RETRY = "retry"
    START_HANDSHAKE = "start handshake"
    WATCH = "watch WireGuard"
    PROBE = "probe new path"
    UPGRADE = "try for a direct path"
    ANSWER = "wait for an offer or answer"
    GIVE_UP = "end without a path"
    PUNCH = "punch for WireGuard"
    SUSPECT = "wait for a quick check"
    BETTER = "look for a better path"
    LATE = "late packets of the path before"
    TURN = "hold a place"


OF_A_PATH = (Timer.START_HANDSHAKE, Timer.WATCH, Timer.UPGRADE, Timer.PUNCH, Timer.BETTER)

"""When loneliness is blamed on the clock."""

from __future__ import annotations

from ginnel.mesh.clock_watch import LONELY_S, LOOK_S, ClockWatch

NOON = 1_800_014_400.0  # unix


def look(watch: ClockWatch, now: float, *, lonely: bool = True, registered: bool = True) -> str:
    return watch.look(
        is_lonely=lonely, is_registered=registered, is_late=False, now=now, unix_now=NOON + now
    )


def test_who_is_registered_and_finds_nobody_is_told_after_30_s() -> None:
    watch = ClockWatch()
    assert look(watch, 0.0, registered=False) == ""
    assert watch.next_look(0.0) == LOOK_S
    assert look(watch, LOOK_S) == ""
    assert watch.next_look(LOOK_S) == LOOK_S + LONELY_S
    assert look(watch, LOOK_S + LONELY_S - 0.1) == ""
    assert "(it shows 2027-01-15)" in look(watch, LOOK_S + LONELY_S)
    assert look(watch, 40.0, lonely=False) == ""
    assert look(watch, 41.0) == ""


def test_lost_registrations_count_anew() -> None:
    watch = ClockWatch()
    look(watch, 0.0)
    look(watch, 20.0, registered=False)
    assert look(watch, 31.0) == ""
    assert look(watch, 31.0 + LONELY_S) != ""


def test_a_message_of_another_time_is_said_at_once() -> None:
    watch = ClockWatch()
    text = watch.look(is_lonely=False, is_registered=True, is_late=True, now=0.0, unix_now=NOON)
    assert "differs from this machine's" in text

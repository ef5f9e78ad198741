"""The timer table: due keys once, in order, movable by the handlers of earlier ones."""

from enum import Enum

from ginnel.base.core import TimerTable, earliest
from ginnel.base.types import Deadline


class Timer(Enum):
    A = 1
    B = 2
    C = 3


def make_table(**at: float) -> TimerTable[Timer]:
    table: TimerTable[Timer] = TimerTable()
    for name, instant in at.items():
        table.set(Timer[name], instant)
    return table


def test_deadline_is_the_earliest_with_its_name() -> None:
    assert make_table().deadline() is None
    assert make_table(A=3.0, B=2.0).deadline() == Deadline(2.0, "B")


def test_keys_without_a_name_are_shown_as_text() -> None:
    table: TimerTable[int] = TimerTable()
    table.set(5, 1.0)
    assert table.deadline() == Deadline(1.0, "5")


def test_expire_yields_what_is_due_earliest_first() -> None:
    table = make_table(A=3.0, B=2.0, C=4.0)
    assert list(table.expire(1.0)) == []
    assert list(table.expire(3.0)) == [Timer.B, Timer.A]
    assert list(table.expire(3.0)) == []
    assert table.get(Timer.C) == 4.0


def test_set_stop_and_set_earlier() -> None:
    table = make_table(A=3.0)
    table.set_earlier(Timer.A, 4.0)
    assert table.get(Timer.A) == 3.0
    table.set_earlier(Timer.A, 2.0)
    table.set_earlier(Timer.B, 9.0)
    assert (table.get(Timer.A), table.get(Timer.B)) == (2.0, 9.0)
    table.set(Timer.A, 5.0)
    assert table.get(Timer.A) == 5.0
    table.stop(Timer.A)
    table.stop(Timer.A)
    assert table.get(Timer.A) is None


def test_deadline_follows_every_change() -> None:
    table = make_table(A=3.0, B=4.0)
    assert table.deadline() == Deadline(3.0, "A")
    table.set(Timer.C, 1.0)
    assert table.deadline() == Deadline(1.0, "C")
    table.set_earlier(Timer.B, 0.5)
    assert table.deadline() == Deadline(0.5, "B")
    table.stop(Timer.B)
    assert table.deadline() == Deadline(1.0, "C")
    assert list(table.expire(2.0)) == [Timer.C]
    assert table.deadline() == Deadline(3.0, "A")
    table.set(Timer.A, 9.0)
    assert table.deadline() == Deadline(9.0, "A")
    table.stop(Timer.A)
    assert table.deadline() is None


def test_a_handler_may_rearm_move_and_stop() -> None:
    table = make_table(A=1.0, B=2.0, C=3.0)
    seen = []
    for key in table.expire(10.0):
        seen.append(key)
        if key is Timer.A:
            table.set(Timer.A, 5.0)  # due again, but only at the next call
            table.stop(Timer.B)
            table.set(Timer.C, 20.0)
    assert seen == [Timer.A]
    assert list(table.expire(10.0)) == [Timer.A]
    assert list(table.expire(20.0)) == [Timer.C]


def test_earliest_of_several() -> None:
    first, second = Deadline(1.0, "first"), Deadline(2.0, "second")
    assert earliest(None, second, first) == first
    assert earliest(None, None) is None

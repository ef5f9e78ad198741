from ginnel.mesh.alarms import MAX_ALARMS, Alarm, AlarmBook, AlarmKind

ALARM = Alarm(AlarmKind.NAME_CONFLICT, None, "pi", "name belongs to somebody")


def test_an_alarm_about_one_object_is_raised_once() -> None:
    book = AlarmBook()
    for digest in (b"one", b"one", b"two"):
        book.add(ALARM, digest)
    assert list(iter(book.poll, None)) == [ALARM, ALARM]


def test_alarms_are_bounded() -> None:
    book = AlarmBook()
    for number in range(MAX_ALARMS + 5):
        book.add(ALARM, number.to_bytes(4, "big"))
    assert len(list(iter(book.poll, None))) == MAX_ALARMS

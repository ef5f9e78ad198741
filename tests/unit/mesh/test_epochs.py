from ginnel.mesh.epochs import ACCEPTED_S, KEPT_S, MAX_EPOCHS, EpochBook
from ginnel.mesh.objects import Epoch, decode_object, parse_epoch
from support.members import NOW, NetworkFactory, seed

NET = NetworkFactory()


def epoch(number: int, *, at: int = NOW) -> Epoch:
    return parse_epoch(decode_object(NET.epoch(seed(f"epoch {number}"), number, at)))


def filled(*epochs: Epoch, void: bytes = b"") -> EpochBook:
    book = EpochBook(lambda signer: signer == void)
    for item in epochs:
        book.add(item)
        book.add_secret(seed(f"epoch {item.number}"))
    return book


def test_an_epoch_without_its_secret_is_not_usable() -> None:
    book = EpochBook(lambda _: False)
    assert not book.add_secret(seed("epoch 1"))
    book.add(epoch(1))
    assert book.newest is None
    assert book.add_secret(seed("epoch 1"))
    assert not book.add_secret(seed("epoch 1"))  # known: nothing to store or to tell
    assert book.newest is not None


def test_the_greatest_number_is_newest_in_any_order() -> None:
    for order in ((1, 2, 3), (3, 1, 2)):
        newest = filled(*map(epoch, order)).newest
        assert newest is not None
        assert newest.epoch.number == 3


def test_equal_numbers_are_decided_by_the_epoch_id() -> None:
    one = parse_epoch(decode_object(NET.epoch(seed("one"), 1)))
    two = parse_epoch(decode_object(NET.epoch(seed("two"), 1)))
    book = EpochBook(lambda _: False)
    for item, name in ((one, "one"), (two, "two")):
        book.add(item)
        book.add_secret(seed(name))
    assert book.newest is not None
    assert book.newest.epoch_id == max(one.epoch_id, two.epoch_id)


def test_a_superseded_epoch_is_accepted_for_a_day_and_kept_longer() -> None:
    old = epoch(1, at=NOW - 100)
    book = filled(old, epoch(2))
    assert len(book.accepted(unix_now=NOW + ACCEPTED_S)) == 2
    assert len(book.accepted(unix_now=NOW + ACCEPTED_S + 1)) == 1
    assert book.is_old(old.epoch_id, unix_now=NOW + ACCEPTED_S + 1)
    assert book.get(old.epoch_id) is not None


def test_a_lone_epoch_never_grows_old() -> None:
    book = filled(epoch(1))
    assert book.accepted(unix_now=NOW + 10 * KEPT_S)
    assert book.expire(unix_now=NOW + 10 * KEPT_S) == ()


def test_epochs_go_after_90_days() -> None:
    old = epoch(1, at=NOW - 100)
    book = filled(old, epoch(2))
    assert book.expire(unix_now=NOW - 99 + KEPT_S) == (old,)
    assert book.get(old.epoch_id) is None


def test_at_most_eight_are_kept_and_the_newest_stay() -> None:
    book = filled(*(epoch(number) for number in range(1, MAX_EPOCHS + 3)))
    assert [key.epoch.number for key in book.all()] == list(range(MAX_EPOCHS + 2, 2, -1))
    low = epoch(1)
    assert book.add(low) == (low,)


def test_an_epoch_of_a_revoked_admin_ranks_below() -> None:
    void = parse_epoch(decode_object(NET.epoch(seed("epoch 9"), 9, by=seed("bad admin"))))
    book = filled(epoch(1), void, void=void.object.signer)
    assert book.newest is not None
    assert book.newest.epoch.number == 1


def test_an_unknown_epoch_counts_as_old() -> None:
    assert filled(epoch(1)).is_old(bytes(8), unix_now=NOW)

from pathlib import Path

from ginnel.storage.invites import SignerStore


def test_invites_and_certificates_come_back(tmp_path: Path) -> None:
    store = SignerStore(tmp_path)
    store.persist_invite(b"invite-1", b"state")
    store.persist_invite(b"invite-1", b"newer")
    store.persist_invite(b"invite-2", b"other")
    store.persist_invite(b"invite-2", None)
    store.persist_invite(b"invite-3", None)
    store.add_certificate(b"certificate")
    again = SignerStore(tmp_path)
    assert again.invites() == [b"newer"]
    assert again.certificates() == [b"certificate"]

"""Somebody writes resolv.conf anew: the servers are passed on, our block comes back."""

from __future__ import annotations

from pathlib import Path

from ginnel.daemon.resolver_watch import ResolverWatch
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Plan
from ginnel.net.dns import DnsPlan
from ginnel.net.dns_file import ResolvConfFile
from ginnel.net.dns_upstream import UpstreamNote, read_note

OWN = "100.64.0.1"


def test_a_file_written_anew_gets_our_block_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    setter = ResolvConfFile("gn-test", path)
    applier = SettingsApplier("gn-test", dns=setter)
    note = UpstreamNote()
    watch = ResolverWatch(applier, note, [OWN], path=path)
    try:
        watch.look()  # nothing is set yet: the file stays as it is
        assert path.read_text() == "nameserver 192.0.2.1\n"
        assert read_note(note.reader_fd) == ("192.0.2.1",)
        plan = DnsPlan((OWN,), search=("home.internal",))
        applier.current = Plan(1280, dns=plan)
        setter.apply(plan)
        before = path.read_text()
        watch.look()
        assert path.read_text() == before
        new = tmp_path / "new"
        new.write_text("nameserver 192.0.2.2\n")
        new.replace(path)
        watch.look()
        assert path.read_text() == before.replace("192.0.2.1", "192.0.2.2")
        assert read_note(note.reader_fd) == ("192.0.2.2",)
        path.unlink()
        watch.look()
        assert OWN in path.read_text()
        assert read_note(note.reader_fd) == ()
        setter.take_back()
        assert not path.exists()
    finally:
        note.close()

"""Which servers a system asked before ours."""

from __future__ import annotations

from pathlib import Path

from ginnel.daemon.name_service import read_upstream


def test_upstream_is_what_stands_behind_us(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert read_upstream(path=path) == ()
    path.write_text("nameserver 100.64.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver")
    assert read_upstream(["100.64.0.1"], path=path) == ("192.0.2.1",)
    path.write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert read_upstream(path=path) == ()

from __future__ import annotations

from pathlib import Path

from ginnel.codervpn import generate


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    for name in ("vpn_pb2.py", "vpn_pb2.pyi"):
        kept = (generate.PACKAGE / name).read_text()
        assert (tmp_path / name).read_text() == kept, "run `python -m ginnel.codervpn.generate`"

"""Makes `vpn_pb2.py` and `vpn_pb2.pyi` from `vpn.proto`; a developer's tool, run as a module.

Needs grpcio-tools (the `dev` group). The product never imports this module.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
STUB_HEADER = '# mypy: disable-error-code="type-arg"\n'  # protoc's own stubs are not strict


def generate(output: Path) -> None:
    """Write the generated code into the folder `output`."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}", f"--python_out={output}"]
    subprocess.run([*command, f"--pyi_out={output}", "vpn.proto"], check=True)
    stub = output / "vpn_pb2.pyi"
    stub.write_text(STUB_HEADER + stub.read_text())


if __name__ == "__main__":
    generate(PACKAGE)

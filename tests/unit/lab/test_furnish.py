from pathlib import Path

import pytest

from support.labs import run_in_namespaces

pytestmark = pytest.mark.netns

FURNISH = """
import os
from pathlib import Path
from ginnel.lab.furnish import furnish
before = set(os.listdir("/etc")) | {"ginnel", "hostname", "hosts", "resolv.conf", ".host"}
users = Path("/etc/passwd").read_text()
furnish("anna", {"node1": "192.0.2.2"})
assert set(os.listdir("/etc")) == before
assert Path("/etc/passwd").read_text() == users
assert os.listdir("/etc/ginnel") == os.listdir("/var/lib/ginnel") == os.listdir("/run") == []
Path("/etc/ginnel-lab-test-file").write_text("of this machine alone")
for path in ("/etc/passwd", "/etc/.host/x", "/var/lib/.host/x"):
    try:
        open(path, "a").close()
    except OSError:
        continue
    print("could write", path)
print(Path("/etc/hostname").read_text(), Path("/etc/hosts").read_text())
"""


def test_a_machine_has_files_of_its_own_and_cannot_write_the_hosts() -> None:
    text = run_in_namespaces(FURNISH)
    assert text.startswith("anna\n")
    assert "192.0.2.2 node1" in text
    assert "could write" not in text
    assert not Path("/etc/ginnel-lab-test-file").exists()

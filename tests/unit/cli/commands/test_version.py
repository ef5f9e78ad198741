import json

from ginnel import __version__
from support.console import ginnel


def test_versions_for_people() -> None:
    printed = ginnel("version")
    assert printed.code == 0
    assert printed.out.startswith(f"ginnel {__version__} (data plane ")


def test_versions_as_json() -> None:
    facts = json.loads(ginnel("version", "--json").out)
    assert facts["schema"] == 1
    assert facts["ginnel"] == __version__
    assert set(facts) == {"schema", "ginnel", "dataplane", "python", "kernel"}

"""The rules of the code that no linter checks: sizes, docstrings, fences, layers, test mirror.

Lists of exceptions below name each one; an exception that is no longer needed fails too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "ginnel"
TESTS = ROOT / "tests"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60  # without docstring
BANNED_IN_CORES = ("asyncio", "os", "random", "secrets", "socket", "threading", "time")
CORES = ("base", "discv5", "ice", "codervpn", "peer", "mesh")
FACADES = ("discv5/aio.py", "ice/aio.py", "codervpn/aio.py", "peer/aio.py")
# Package -> what of ginnel it may import beside itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "base": ("_native",),
    "net": ("base", "_native"),
    "discv5": ("base",),
    "ice": ("base",),
    "codervpn": ("base",),
    "peer": ("base", "ice"),
    "mesh": ("base", "discv5", "ice", "peer"),
    "storage": ("base", "mesh"),
    "engine": ("base", "net", "_native"),
    "lab": ("base",),
}
PUBLIC_ALL_THE_SAME = ("_native", "_exit")  # our extension module; os._exit is documented
FACADES_ALSO = ("net",)
# Core modules without a test file of their own, and where they are tested.
UNTESTED_CORES: dict[str, str] = {
    "base/chance.py": "Protocols only",
    "base/dataplane.py": "values only",
    "base/links.py": "values only",
    "mesh/events.py": "values only",
    "mesh/relay_events.py": "values only",
}
# Sleeps in tests: `sleep(0)`, one turn of the loop, is none. File -> why it does not wait.
SLEEPS: dict[str, str] = {}
# Test files of tests/unit that mirror no module.
WITHOUT_MODULE: dict[str, str] = {}


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def modules(*packages: str) -> list[Path]:
    folders = [SOURCE / package for package in packages] or [SOURCE]
    found = (path for folder in folders for path in sorted(folder.rglob("*.py")))
    return [path for path in found if not path.name.endswith("_pb2.py")]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that the module imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def core_modules() -> list[Path]:
    return [path for path in modules(*CORES) if relative(path) not in FACADES]


def test_files_are_short() -> None:
    tests = [path for path in sorted(TESTS.rglob("*.py")) if "_pb2" not in path.name]
    sizes = {path: len(path.read_text().splitlines()) for path in [*modules(), *tests]}
    long = {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > MAX_FILE_LINES}
    assert not long


def test_functions_are_short() -> None:
    long = {
        f"{relative(path)}:{node.name}": lines_without_docstring(node)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines_without_docstring(node) > MAX_FUNCTION_LINES
    }
    assert not long


def test_every_module_says_what_it_does() -> None:
    assert not [relative(path) for path in modules() if not ast.get_docstring(tree_of(path))]


def test_cores_import_no_clock_chance_or_io() -> None:
    found = {
        f"{relative(path)}: {name}"
        for path in core_modules()
        for name in imports_of(path)
        if name.split(".")[0] in BANNED_IN_CORES
    }
    assert not found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    found = set()
    for path in modules(package):
        allowed = {package, *MAY_IMPORT[package]}
        if relative(path) in FACADES:
            allowed |= set(FACADES_ALSO)
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "ginnel" and len(parts) > 1 and parts[1] not in allowed:
                found.add(f"{relative(path)}: {name}")
    assert not found


LOADED = """
import sys
import ginnel.daemon.manager
print(*sorted(sys.modules))
"""


def test_the_manager_loads_no_code_for_what_comes_from_the_network() -> None:
    """It runs as root: beside its own it has the tunnel's protobuf, and no other parser."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    names = [name.split(".") for name in done.stdout.split()]
    ours = {parts[1] for parts in names if parts[0] == "ginnel" and len(parts) > 1}
    assert ours == {"base", "codervpn", "daemon", "net", "storage"}
    assert {parts[2] for parts in names if parts[:2] == ["ginnel", "storage"] and parts[2:]} == {
        "files"  # makes folders, reads nothing by itself
    }
    foreign = {"cryptography", "coincurve", "dns", "h11", "miniupnpc", "jeepney", "pyroute2"}
    assert {parts[0] for parts in names} & {*foreign, "http", "sqlite3"} == set()


def test_cores_do_not_catch_everything() -> None:
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in core_modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert not found


def test_unit_tests_mirror_modules() -> None:
    orphans = []
    for path in sorted((TESTS / "unit").rglob("test_*.py")):
        place = path.relative_to(TESTS / "unit").as_posix()
        module = SOURCE / place.replace("test_", "", 1)
        if not module.exists() and not module.with_suffix("").is_dir():
            orphans.append(place)
    assert sorted(orphans) == sorted(WITHOUT_MODULE)


def test_every_core_module_has_its_test_file() -> None:
    untested = []
    for path in core_modules():
        name = relative(path)
        test = TESTS / "unit" / path.relative_to(SOURCE).with_name(f"test_{path.name}")
        if path.name != "__init__.py" and not test.exists():
            untested.append(name)
    assert sorted(untested) == sorted(UNTESTED_CORES)


def test_no_test_sleeps() -> None:
    found = {
        path.relative_to(TESTS).as_posix()
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep")
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    }
    assert sorted(found) == sorted(SLEEPS)


def test_tests_do_not_touch_private_names() -> None:
    found = set()
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            owner = ast.unparse(node.value)
            is_own = owner in ("self", "cls") or owner.endswith("super()")
            is_public = node.attr.startswith("__") or node.attr in PUBLIC_ALL_THE_SAME
            if not is_own and not is_public:
                found.add(f"{path.relative_to(ROOT)}:{node.lineno} {owner}.{node.attr}")
    assert not found

"""Shared setup of all tests: the path of `support`, and the list of skips at the end.

A skip that `expected_skips.toml` does not name for this machine fails the run.
"""

import os
import signal
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Virtual machines are noisy: no deadline for one example; a failing example prints its blob.
# The same examples each time; GINNEL_HYPOTHESIS=random draws others, as `make soak` does.
settings.register_profile("ginnel", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("GINNEL_HYPOTHESIS", "ginnel"))

_SKIPS = pytest.StashKey[list[tuple[str, str]]]()


def _is_expected(test: str, reason: str) -> bool:
    here = "root" if os.geteuid() == 0 else "not-root"
    entries = tomllib.loads((HERE / "expected_skips.toml").read_text())["skip"]
    return any(
        entry["test"] in test and entry["reason"] in reason and entry["when"] in ("always", here)
        for entry in entries
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPS] = []
    config.pluginmanager.register(Skips(config))
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Skips:
    """Collects the skips; with several workers, in the process that hears of all tests."""

    config: pytest.Config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a skip, but not a test that is expected to fail."""
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self.config.stash[_SKIPS].append((report.nodeid, str(reason)))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skips = config.stash[_SKIPS]
    terminalreporter.section(f"skipped: {len(skips)}")
    for test, reason in skips:
        note = "" if _is_expected(test, reason) else "  <- NOT EXPECTED: see expected_skips.toml"
        terminalreporter.write_line(f"{test}: {reason}{note}")


def _append_to_list(skips: list[tuple[str, str]]) -> None:
    """Add to the list that `scripts/test` shows at its end, after several runs."""
    path = os.environ.get("GINNEL_SKIPS_FILE")
    if path:
        with Path(path).open("a") as file:
            file.writelines(f"{test}: {reason}\n" for test, reason in skips)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist: the main process has its skips too
    _append_to_list(session.config.stash[_SKIPS])
    unexpected = [skip for skip in session.config.stash[_SKIPS] if not _is_expected(*skip)]
    if unexpected and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

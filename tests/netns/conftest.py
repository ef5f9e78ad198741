"""Which machines have a lab: asked once, before each test and so before its module's lab is made.

`netns(tun=False)` marks what needs no network device. A skip has to be in expected_skips.toml.
"""

from functools import cache

import pytest

from ginnel.lab import requirements, tun_problem


@cache
def _lacking() -> tuple[tuple[str, ...], str | None]:
    """Return what any lab lacks here, and why there is no TUN."""
    problem = tun_problem()
    return tuple(text for text in requirements() if text != problem), problem


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("netns")
    assert marker is not None, "tests of tests/netns have the marker netns"
    lacking, problem = _lacking()
    if problem is not None and marker.kwargs.get("tun", True):
        lacking = (*lacking, problem)
    if lacking:
        pytest.skip(f"no lab on this machine: {'; '.join(lacking)}")

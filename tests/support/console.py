"""Runs the command line in this process as its entry point does."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TypeVar

from ginnel.cli.main import main
from ginnel.lab.furnish import furnish
from support.confined import enter_namespaces, in_child

ValueT = TypeVar("ValueT")

NOBODY = 65534


@dataclass(frozen=True)
class Printed:
    """What a command said and the code it ended with."""

    code: int
    out: str
    err: str


def ginnel(*arguments: str) -> Printed:
    """Run `ginnel ARGUMENTS`; an error that would be a traceback is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Printed(code, out.getvalue(), err.getvalue())


def on_machine(function: Callable[[], ValueT]) -> ValueT:
    """Run a function as root of a machine of its own: empty /etc/ginnel, no network device."""

    def child() -> ValueT:
        enter_namespaces()
        furnish("attic", {})
        return function()

    return in_child(child)


def ginnel_as_user(*arguments: str) -> Printed:
    """Run it without root's rights, whoever runs the tests."""

    def child() -> Printed:
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        return ginnel(*arguments)

    return in_child(child)

import subprocess
import sys

from ginnel.lab import enter

FORK = "import sys; sys.path.insert(0, sys.argv[1]); import enter; enter.fork_and_stand_for()\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    folder = enter.__file__.rpartition("/")[0]
    return subprocess.run(
        [sys.executable, "-c", FORK + code, folder], capture_output=True, text=True, check=False
    )


def test_the_one_who_stands_for_a_command_ends_as_it_does() -> None:
    assert run("sys.exit(7)").returncode == 7
    assert run("import os; os.kill(os.getpid(), 9)").returncode == -9
    assert run("import os; os.kill(os.getpid(), 15)").returncode == -15


def test_output_is_the_commands_own() -> None:
    assert run("print('hello')").stdout == "hello\n"


def test_signals_are_passed_on() -> None:
    code = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
        "os.kill(os.getppid(), signal.SIGUSR1)\n"
        "print(signal.sigwait([signal.SIGUSR1]).name)"
    )
    assert run(code).stdout in ("SIGUSR1\n", "")  # empty: sent before the other blocked it


def test_usage_and_missing_processes() -> None:
    def script(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-I", "-S", enter.__file__, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    assert "usage" in script().stderr
    gone = script("--pid", str(2**22 + 1), "--", "true")
    assert gone.returncode == enter.EXIT_CANNOT_RUN
    assert "cannot enter" in gone.stderr

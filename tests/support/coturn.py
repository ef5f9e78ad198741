"""Debian's coturn as a server of tests: over UDP, TCP and TLS."""

from __future__ import annotations

from pathlib import Path

from support.certificates import make_certificate

USER, PASSWORD = "user", "pass"
MIN_PORT, MAX_PORT = 49200, 49299


def coturn_argv(
    folder: Path, ip: str, port: int, *, tls_port: int | None = None, more: str = ""
) -> list[str]:
    """Return the command line; with a TLS port a certificate is made in `folder`/tls."""
    argv = ["turnserver", "-n", "--lt-cred-mech", f"--user={USER}:{PASSWORD}", "--no-cli"]
    argv += ["--user=other:word", "--realm=example.org", "--log-file=stdout", "--simple-log"]
    argv += [f"--listening-ip={ip}", f"--relay-ip={ip}", f"--listening-port={port}", "--no-dtls"]
    argv += [f"--min-port={MIN_PORT}", f"--max-port={MAX_PORT}"]
    argv += [f"--pidfile={folder}/pid", f"--userdb={folder}/db"]
    if tls_port is None:
        argv.append("--no-tls")
    else:
        certificate, key = make_certificate(folder / "tls", ip)
        argv += [f"--tls-listening-port={tls_port}", f"--cert={certificate}", f"--pkey={key}"]
    return argv + more.split()

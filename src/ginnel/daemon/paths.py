"""Where a network's files are: keys and settings, state, sockets.

Three roots, each of which a test or an environment can move: `/etc/ginnel` (root only),
`/var/lib/ginnel` (the unprivileged processes), `/run/ginnel` (sockets).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ginnel.base.errors import SystemFailure, UsageError

MAX_NETWORK_NAME = 63  # letters, digits, hyphen, lower case (FORMATS, "Ground rules")
_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"

ETC_ROOT = Path("/etc/ginnel")
STATE_ROOT = Path("/var/lib/ginnel")
RUN_ROOT = Path("/run/ginnel")


@dataclass(frozen=True, slots=True)
class NetworkPaths:
    """All paths of one network; nothing here touches the disk.

    Raises:
        UsageError: the name could not be a network's (and so would be no safe file name).
    """

    name: str
    etc_root: Path = ETC_ROOT
    state_root: Path = STATE_ROOT
    run_root: Path = RUN_ROOT

    def __post_init__(self) -> None:
        if not _is_network_name(self.name):
            raise UsageError(f"{self.name[:80]!r} is no network name: a-z, 0-9, -, at most 63")

    @property
    def etc(self) -> Path:
        """Return root's folder: keys, settings, trust objects."""
        return self.etc_root / self.name

    @property
    def settings(self) -> Path:
        """Return the settings file."""
        return self.etc / "settings.toml"

    @property
    def state(self) -> Path:
        """Return the tunnel's folder."""
        return self.state_root / self.name

    @property
    def signer_state(self) -> Path:
        """Return the signer's folder."""
        return self.state_root / f"{self.name}-signer"

    @property
    def run(self) -> Path:
        """Return the folder of the sockets."""
        return self.run_root / self.name

    @property
    def lock(self) -> Path:
        """Return the file that a running manager holds locked."""
        return self.run / "lock"

    @property
    def log(self) -> Path:
        """Return what a manager in the background writes its log to where there is no journal."""
        return self.run / "manager.log"

    @property
    def manager_socket(self) -> Path:
        """Return the manager's socket (root)."""
        return self.run / "manager.sock"

    @property
    def tunnel_socket(self) -> Path:
        """Return the tunnel's socket (everybody on this machine)."""
        return self.run / "tunnel.sock"


def network_folders(root: Path = ETC_ROOT) -> list[str]:
    """Return the names of the folders that can be a network's, sorted: copies and such are none.

    Raises:
        SystemFailure: we may not look.
    """
    try:
        entries = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise SystemFailure(f"{root} may not be read: try again as root") from None
    return [name for name in entries if _is_network_name(name)]


def _is_network_name(name: str) -> bool:
    is_short = 0 < len(name) <= MAX_NETWORK_NAME
    return is_short and all(character in _NAME_CHARACTERS for character in name)

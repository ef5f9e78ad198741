"""Shared setup of all tests: `tests/` is importable, so that `from support import ...` works."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

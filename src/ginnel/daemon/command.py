"""How Ginnel starts itself again."""

import sys

# -P: not with modules of the folder that somebody happens to be in; it may be anybody's.
COMMAND = (sys.executable, "-P", "-m", "ginnel.cli.main")

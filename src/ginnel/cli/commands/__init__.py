"""One file per command; `cli/main.py` loads a command's file only when it is called."""

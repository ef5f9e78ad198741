"""Runs part of a test under another umask, as in a root shell that is careful or in our service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of this process and put the former one back."""
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)

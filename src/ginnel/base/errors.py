"""The public error tree.

Three kinds, by whose fault it is: the remote's, the caller's, the system's. A subclass exists only
where a caller reacts differently.
"""


class GinnelError(Exception):
    """Base of every error that Ginnel raises on purpose."""


class RemoteProtocolError(GinnelError):
    """The other side sent something that its protocol forbids. Drop it and count it."""


class UsageError(GinnelError):
    """We were called wrongly (arguments, settings, order of calls). The text says what to do."""


class SystemFailure(GinnelError):
    """The system refused (a file, a socket, a device, the kernel). The text says what to do."""

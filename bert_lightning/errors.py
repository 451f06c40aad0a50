"""Errors that the command line turns into one message and an exit status."""


class InputError(ValueError):
    """Bad input from the user. The message names the file and line, or the key and the nearest existing one.

    The commands print the message alone and end with exit status 2.
    """


class WorkError(RuntimeError):
    """Failure that is not the user's mistake, such as a full disk. The message describes what failed and where.

    Attributes:
        status: exit status of the command.
    """

    status = 1


class SharedWorkError(WorkError):
    """Failure that all processes of a training raise together. All have its exit status; only the first reports."""


class Interrupted(BaseException):
    """Request to end this process at once, sent by SIGINT.

    It is not a KeyboardInterrupt, because Lightning turns that into exit status 1.
    """

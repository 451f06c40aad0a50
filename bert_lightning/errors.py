"""What a user did wrong, as one class that the command line turns into one message."""


class InputError(ValueError):
    """Bad input: the message names the file and line, or the key and its nearest known neighbour.

    The commands print the message alone and end with exit status 2.
    """


class WorkError(RuntimeError):
    """Work that failed through no mistake of the user; the message says what and where.

    Attributes:
        status: what the commands exit with.
    """

    status = 1


class SharedWorkError(WorkError):
    """Work that failed on every process of a training alike: all end with its status, and the first one says it."""


class Interrupted(BaseException):
    """SIGINT asks this process to end where it stands.

    No KeyboardInterrupt, for which Lightning ends the process with status 1.
    """

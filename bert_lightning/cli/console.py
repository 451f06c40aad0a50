"""The console of rich that the commands print to."""

from rich.console import Console


class Terminal(Console):
    """Console that lets the command line handle a broken pipe."""

    def on_broken_pipe(self) -> None:
        """Raise the error again, because rich would end the process with status 1."""
        raise

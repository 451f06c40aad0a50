"""Objects made to execute code."""

import os
from pathlib import Path


class Evil:
    """Object that makes the folder `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)

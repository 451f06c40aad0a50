"""What goes wrong with a checkpoint; without torch, so that tokenizers load quickly."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file, and the tensor where there is one."""

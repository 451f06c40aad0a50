"""The error about checkpoints, in a module without torch, so that tokenizers load quickly."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read. The message names the file, and the tensor if one is at fault."""

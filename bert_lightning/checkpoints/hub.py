"""Models of the hub (`bert-base-uncased`, `hub:google-bert/bert-base-cased@REVISION`) and their download."""

import re
from pathlib import Path

from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.files import sha256

PREFIX = "hub:"
_NAME = re.compile(rf"(?:{PREFIX})?(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The settings of an adapter are downloaded too, because a folder that has them is refused.
_SMALL = (
    "config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "adapter_config.json",
)
_SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def is_hub_name(text: str) -> bool:
    """Return whether `text` can be the name of a model on the hub, with or without `hub:` and `@REVISION`.

    >>> is_hub_name("google-bert/bert-base-cased@main"), is_hub_name("../model")
    (True, False)
    """
    return _NAME.fullmatch(text) is not None


def pinned(name: str, revision: str) -> str:
    """Return a hub name in which a commit replaces the revision.

    >>> pinned("bert-base-cased@main", "0a1b2c")
    'hub:bert-base-cased@0a1b2c'
    """
    match = _NAME.fullmatch(name)
    assert match is not None
    return f"{PREFIX}{match[1]}@{revision}"


def is_pinned_form(name: str, other: str) -> bool:
    """Return whether `other` is the hub name `name` with a commit, and `name` has no commit itself."""
    match, pin = _NAME.fullmatch(name), _NAME.fullmatch(other)
    if match is None or pin is None or match[1] != pin[1]:
        return False
    return _COMMIT.fullmatch(match[2] or "") is None and _COMMIT.fullmatch(pin[2] or "") is not None


def download(name: str) -> tuple[Path, str]:
    """Download a model's config, weights and tokenizer; return their folder and commit.

    Files in the hub's cache are not downloaded again. Weights that the hub stores by their SHA-256 are checked
    against it.

    Raises:
        CheckpointError: the model does not exist, there is no network, or a file is damaged.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r} is not the name of a model on the hub: NAME, OWNER/NAME, or with @REVISION")
    try:
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=[*_SMALL, *_SAFETENSORS]))
        if not any(folder.glob(_SAFETENSORS[0])):
            snapshot_download(match[1], revision=folder.name, allow_patterns=list(_PICKLED))
    except (HTTPError, HFValidationError, OSError) as error:
        reason, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name} could not be downloaded from the hub: {reason}") from None
    for weights in [*folder.glob(_SAFETENSORS[0]), *folder.glob(_PICKLED[0])]:
        # The cache names a large file by its SHA-256.
        stored = weights.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", stored) and sha256(weights) != stored:
            raise CheckpointError(
                f"{weights} is damaged: its SHA-256 differs from the hub's; delete it and try again"
            )
    return folder, folder.name

"""Parts of the entry that makes a checkpoint usable without its run, as plain values."""

from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.model import BertConfig
from bert_lightning.model.pretrained import PretrainedModel
from bert_lightning.model.tuning import Full, described


def described_model(model: PretrainedModel, config: BertConfig) -> dict[str, object]:
    """Describe the architecture of a model, and how it was tuned if not all of it was."""
    tuning = {} if type(model.tuning) is Full else {"tuning": described(model.tuning)}
    return {"architecture": model.architecture, "config": config.to_dict(), **tuning}


def described_vocabulary(vocabulary: Vocabulary) -> dict[str, object]:
    """Describe the entries of a vocabulary and how text is prepared for it."""
    return {
        "vocabulary": "\n".join(vocabulary.entries),
        "lowercase": vocabulary.lowercase,
        "strip_accents": vocabulary.strip_accents,
        "tokenize_chinese_chars": vocabulary.tokenize_chinese_chars,
        "special_tokens": list(vocabulary.special_tokens),
    }


def described_head(model: PretrainedModel) -> dict[str, object]:
    """Describe a custom head; the linear head needs no description."""
    return {name: value for name, value in model.head_settings.items() if name == "head"}

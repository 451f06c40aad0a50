"""Write a checkpoint with TensorFlow's own saver, named as google-research/bert names its variables.

    python make.py FOLDER        (needs tensorflow; tensorflow 2.21 made the folder beside this file)

Every value is a function of its variable's name, so a test can compute it again. Beside the model there are an Adam
slot and the step, as training leaves them.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 8,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 12,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "Old", "é", "中", "."]


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Return variable name -> shape, as in `modeling.py` and `run_pretraining.py`."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    found = {
        "bert/embeddings/word_embeddings": (config["vocab_size"], hidden),
        "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], hidden),
        "bert/embeddings/position_embeddings": (config["max_position_embeddings"], hidden),
        "bert/pooler/dense/kernel": (hidden, hidden),
        "bert/pooler/dense/bias": (hidden,),
        "cls/predictions/transform/dense/kernel": (hidden, hidden),
        "cls/predictions/transform/dense/bias": (hidden,),
        "cls/predictions/output_bias": (config["vocab_size"],),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }
    norms = ["bert/embeddings", "cls/predictions/transform"]
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        dense = {
            "attention/self/query": (hidden, hidden),
            "attention/self/key": (hidden, hidden),
            "attention/self/value": (hidden, hidden),
            "attention/output/dense": (hidden, hidden),
            "intermediate/dense": (hidden, wide),
            "output/dense": (wide, hidden),
        }
        for name, shape in dense.items():
            found[f"{layer}/{name}/kernel"], found[f"{layer}/{name}/bias"] = shape, shape[1:]
        norms += [f"{layer}/attention/output", f"{layer}/output"]
    for name in norms:
        found[f"{name}/LayerNorm/gamma"] = found[f"{name}/LayerNorm/beta"] = (hidden,)
    return found


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of a variable."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


def write(folder: Path, config: dict) -> None:
    """Write `bert_config.json`, `vocab.txt` and the checkpoint."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bert_config.json").write_text(json.dumps(config, indent=2) + "\n")
    words = [*WORDS, *(f"[unused{number}]" for number in range(config["vocab_size"] - len(WORDS)))]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, shape in shapes(config).items():
            tf.compat.v1.get_variable(name, initializer=value(name, shape))
        slot = "cls/seq_relationship/output_bias/adam_m"
        tf.compat.v1.get_variable(slot, initializer=value(slot, (2,)))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(1000000))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False, write_state=False)


if __name__ == "__main__":
    write(Path(sys.argv[1]), CONFIG)

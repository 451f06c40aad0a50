"""From text to prediction, step by step: a notebook in percent format, which editors open as cells."""

# %% [markdown]
# # From text to prediction
#
# This page walks through a whole project in Python: labelled text, a vocabulary, an experiment, training, scores and
# predictions. It is also a script: `python examples/walkthrough.py` runs it in a few seconds. Run
# `python examples/make_data.py` first, which writes the data.

# %%
from pathlib import Path

import bert_lightning
from bert_lightning.data import read_rows

folder = Path(__file__).parent / "reviews"

# %% [markdown]
# The data is a table. Each row has a text and a label.

# %%
for row in list(read_rows(str(folder / "train.tsv")))[:3]:
    print(row.location, row.values)

# %% [markdown]
# An experiment says what is trained, on which data, and for how long. Every other key has a default.

# %%
experiment = bert_lightning.load_experiment(
    {
        "experiment": "walkthrough",
        "task": "text-classification",
        "model": {"size": "tiny", "config": {"pooling": "mean"}},
        "data": {"train": folder / "train.tsv", "validation": folder / "validation.tsv", "label_column": "mood"}
        | {"tokenizer": folder / "tokenizer", "max_seq_length": 16, "batch_size": 16},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "val_check_interval": 20},
        "loggers": [],
    },
    {"optimizer.learning_rate": 2e-3},
)

# %% [markdown]
# Training leaves a directory from which everything can be repeated. If you run this cell again, it returns the
# finished run at once.

# %%
run = bert_lightning.fit(experiment)
print(run.directory, run.metrics)

# %% [markdown]
# The trained task predicts from plain text.

# %%
for prediction in run.predict(["The soup was excellent.", "Horrible music!"]):
    print(prediction)

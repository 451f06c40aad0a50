"""The command `bert-lightning`, run as `python -m bert_lightning`."""

from bert_lightning.cli import console

if __name__ == "__main__":
    console()

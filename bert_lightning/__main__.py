"""`python -m bert_lightning` is the command `bert-lightning`."""

from bert_lightning.cli import console

if __name__ == "__main__":
    console()

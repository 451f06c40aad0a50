"""The tokenizer files of a checkpoint: vocabulary, settings, special tokens, and `tokenizer.json`."""

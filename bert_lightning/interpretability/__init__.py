"""Tools that show what happens inside a model: its hidden states."""

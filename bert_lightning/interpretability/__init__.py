"""Looking inside a model: its hidden states."""

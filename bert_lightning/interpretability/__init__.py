"""Views inside a model: its hidden states."""

"""Extractive question answering: an answer span in a context."""

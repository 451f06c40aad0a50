"""Multiple choice: one of several endings."""

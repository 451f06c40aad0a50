"""Multiple choice: one of several answers or endings."""

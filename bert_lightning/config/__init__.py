"""An experiment as one typed value: its keys, files, overrides, and classes of the user's own."""

"""An experiment as one typed value: its keys, files, overrides, and custom classes."""

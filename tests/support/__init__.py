"""Shared code of the tests: small texts and tables, processes that train together, commands."""

"""Hyper-parameter search with optuna: reproducible draws, early stops of trials, and a database with one writer."""

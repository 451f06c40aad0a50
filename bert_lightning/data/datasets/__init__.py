"""Labelled data sets: typed examples, the readers of their files, and the catalogue of standard sets."""

"""Relation classification: how two marked entities of a text relate."""

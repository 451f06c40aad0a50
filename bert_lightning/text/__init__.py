"""Splitting text into sentences and word pieces; training and loading vocabularies."""

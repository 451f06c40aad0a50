"""Readers of fine-tuning data, one module per family of formats. Each turns a source into a stream of examples.

A source is a file, a folder or `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`. A malformed source is an `InputError` that
names file and line, or the key of the record.
"""

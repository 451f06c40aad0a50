"""Layers of the encoder and functions that they use: attention, dropout, embeddings, pooling, packing, CRF."""

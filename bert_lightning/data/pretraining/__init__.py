"""Pre-training data: samples of a token store, masking, batches, and the published generator."""

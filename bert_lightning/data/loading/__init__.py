"""From numbered samples to batches: the base DataModule, its loaders and their workers, batching, randomness."""

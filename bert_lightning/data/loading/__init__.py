"""From numbered samples to batches: the base DataModule, loader, workers, batching, randomness."""

"""From files to batches: readers, token stores, samples, masking, and one data module per task."""

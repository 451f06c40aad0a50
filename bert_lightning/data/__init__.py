"""From files to batches: readers, token store, sentence pairs, masking, loaders, one DataModule a task."""

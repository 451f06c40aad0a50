"""One run: building, training, resuming, its record on disk, scoring, prediction and export."""

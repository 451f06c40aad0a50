"""From token stores to masked batches: samples, mixtures, masking, and the published generator."""

"""From files to micro-batches: readers, token stores, pre-training samples, and the base of all DataModules."""

"""Pre-training: masked language modelling with or without a sentence objective."""

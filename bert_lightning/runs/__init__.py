"""A whole run: its configuration as one typed value, its directory, training, scoring, predicting, reporting."""

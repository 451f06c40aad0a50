"""Names of the files of a run that are next to its folder of checkpoints. This module imports nothing."""

MANIFEST, SETTINGS, METRICS = "manifest.json", "config.yaml", "metrics.jsonl"

"""How training runs, whatever is trained: optimisers, schedules, checkpoints, signals, progress. Knows no BERT."""

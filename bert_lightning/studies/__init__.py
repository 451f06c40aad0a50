"""Several runs: seeds, comparison, reproduction."""

"""Studies over several runs: seeds, comparison, reproduction."""

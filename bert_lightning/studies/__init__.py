"""Studies over several runs: training arms with seeds, searching, comparing, reproducing."""

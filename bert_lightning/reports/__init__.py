"""What leaves a run: report pages, scores of prediction files, submissions."""

"""Results to show or to hand in: report pages, scores of prediction files, submissions."""

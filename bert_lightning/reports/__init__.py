"""Results for readers outside: report pages, scores of prediction files, submissions."""

"""Lines and rows of files in every format and compression."""

"""Pictures of a report as SVG text, which follow the page's colours and need no script."""

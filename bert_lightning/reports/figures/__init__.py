"""Figures of a report as SVG text, which follow the colours of the page and need no script."""

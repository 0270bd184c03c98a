"""A report as Markdown, CSV, LaTeX, JSON, a page, plots, and tables for the terminal."""

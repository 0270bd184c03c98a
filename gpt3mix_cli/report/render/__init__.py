"""A report as Markdown, CSV, LaTeX, JSON, a page and plots."""

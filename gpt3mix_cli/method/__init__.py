"""Section 3 of the paper, in reading order: selection, prompt, parsing (and cleaning), labels."""

"""Section 3 of the paper: selection, prompt, parsing, labels."""

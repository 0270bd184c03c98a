"""The LM in this process: a causal LM of the transformers library."""

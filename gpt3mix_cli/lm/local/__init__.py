"""A causal LM of the transformers library in this process.

`engine` answers requests. `continuous_batch` generates texts and scores labels, `beam_search` finds
whole lines; both run the model through `decoder`.
"""

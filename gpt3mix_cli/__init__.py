"""GPT3Mix (Yoo et al., 2021): a handful of labelled sentences in, a compared text classifier out.

The stages are `subsample`, `augment`, `train` and `report`; they meet only through JSONL files. `cli` is the door,
`grid` runs the stages over every cell of an experiment, and `lm` is the port to language models.
"""

__version__ = "0.1.0"

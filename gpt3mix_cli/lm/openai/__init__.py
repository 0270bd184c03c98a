"""What an endpoint takes besides the engine, `lm.openai_api`, in the order in which a request meets it.

`protocol`: what is asked and how answers are read; `probe`: what a server offers; `labels`: the ladder of label scores;
`exchange`: each answer once, on the disk before it is read; `traffic` and `level`: to whom, how many at once, what if it goes
wrong; `batch`: all at once, by the provider's batches; `money`: prices and the budget; `tariff`: what a row will take; `loop`: a
thread for all that.
"""

"""The language model behind an OpenAI-compatible endpoint; `engine.OpenAILM` is the entry point.

In the order in which a request passes through them:

`engine` turns a request into calls, and answers into a completion; `label_scorer` requests label
scores separately. `requests` says what a server supports and builds bodies, `responses` and
`label_scores` parse answers, and `probe` finds out what the server supports. `session` sends each
call of an output once. `dispatcher` sends requests with retries, over `servers` and `concurrency`.
`batch` uses the provider's batches. `budget` has prices, limits and estimates. `event_loop` runs
all this in a thread.
"""

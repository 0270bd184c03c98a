"""The language model behind an OpenAI-compatible endpoint; `engine.OpenAILM` is the entry point.

In the order in which a request passes through them:

`completion` turns a request into calls, and answers into a completion; `label_scorer` requests
label scores separately. `requests` builds bodies, `responses` and `label_scores` parse answers,
`capabilities` says what the server supports, and `probe` finds that out. `session` and
`cached_client` send each call of an output once. `dispatcher` sends requests with retries, over
`server_pool`, `servers` and `concurrency`; `http_errors` classifies failures. `batch` uses the
provider's batches. `budget` and `cost_model` have prices and limits. `event_loop` runs all this
in a thread.
"""

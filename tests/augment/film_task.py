"""The task of tests with the packaged LM."""

from gpt3mix_cli.settings import Task

TASK = Task.model_validate(
    {
        "name": "t",
        "data": {"kind": "demo"},
        "labels": {"pos": "positive", "neg": "negative"},
        "text_type": "movie review",
        "label_type": "sentiment",
    }
)

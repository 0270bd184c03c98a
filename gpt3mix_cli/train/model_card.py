"""The model card of a saved model: what it is, what it was trained on, and how good it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..provenance import describe_sources
from ..records import Trial
from ..settings import Experiment, HubData, TrainableSettings
from .protocol import Classifier
from .trials import SyntheticSet

NOT_IN_CARD = {"model", "revision", "device", "preset"}
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
SCORE_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mcc": "Matthews correlation",
    "ece": "expected calibration error",
    "majority": "majority class alone",
    "valid_accuracy": "validation accuracy",
}
HEADER = """\
---
{header}
---

# {task}: {classes}

A text classifier trained by gpt3mix {version}: {summary}.
"""
OF_A_TRIAL = """
## Data and method

- Task {task}, level {level}, data seed {data_seed}: {n_train} real rows (sha {train_sha}).
- Method `{method}`: {n_synthetic} synthetic rows, {synthetic}.
- Settings: `{settings}`; training seed {seed}{best_epoch}.
- Chosen among its trials by validation accuracy; test rows were not used for the choice.

## Scores on {n_test} test rows

| score | value |
| --- | --- |
{scores}

Confusion (rows: true {classes}; columns: predicted): `{confusion}`

One trial on few rows says little: the experiment's report has all trials and their spread.
"""
USE = """
## Use

```
{usage}# with gpt3mix in Python: gpt3mix_cli.predict("DIR", [{{"text": "..."}}])
# on the command line: gpt3mix predict DIR -i texts.jsonl -o labelled.jsonl
```

{sources}"""


@dataclass(frozen=True)
class ModelDescription:
    """What a saved model is.

    Attributes:
        classifier: the fitted classifier.
        classes: the task's classes.
        settings: of the classifier; a model in a folder has the folder's name.
        base_model: hub id of the pretrained model, or minilm; None if there is none.
        data: hub id of the data set; None if it is not of the hub.
        sources: sections of the card about the data, the models and what to cite.
    """

    classifier: Classifier
    classes: Sequence[str]
    settings: dict[str, Any]
    base_model: str | None
    data: str | None = None
    sources: str = ""


def describe_model(
    classifier: Classifier,
    classes: Sequence[str],
    settings: TrainableSettings,
    experiment: Experiment | None = None,
    method: str = "none",
) -> ModelDescription:
    """Return the description of a fitted classifier, without paths of this machine.

    Args:
        classifier: the fitted classifier.
        classes: the task's classes.
        settings: of the classifier.
        experiment: that it was trained in, for its sources.
        method: that wrote its synthetic rows.
    """
    values, base_model = settings.model_dump(exclude={"name", "trials"}), None
    if "model" in values:
        path = Path(values["model"])
        base_model = None if path.is_dir() else values["model"]
        values["model"] = base_model or path.name
    if experiment is None:
        return ModelDescription(classifier, classes, values, base_model)
    uses = {"Pretrained model": getattr(settings, "model", None)}
    if experiment.lm and method != "none" and experiment.lm_settings_for(method):
        uses["Language model of the synthetic rows"] = experiment.lm.model
    task, models = experiment.task, {use: model for use, model in uses.items() if model}
    hub_id = task.data.path if isinstance(task.data, HubData) else ""
    data = hub_id if hub_id and not Path(hub_id).is_dir() else None
    sources = describe_sources(task, models)
    return ModelDescription(classifier, classes, values, base_model, data, sources)


def trial_card(model: ModelDescription, row: Trial, synthetic: SyntheticSet | None) -> str:
    """Return the card of the model of one trial.

    Args:
        model: the model.
        row: the trial's row.
        synthetic: the synthetic rows of the trial; None without augmentation.
    """
    sources = {example.label_source for example in synthetic.rows} if synthetic else ()
    labels_from = f"draw {row.draw}, labels from: {', '.join(sorted(sources)) or 'none'}"
    values = row.model_dump() | {
        "synthetic": labels_from + synthetic.review_note if synthetic else "no augmentation",
        "best_epoch": f", best epoch {row.best_epoch} of {row.epochs}" if row.epochs else "",
    }
    return render_card(OF_A_TRIAL, model, values)


def render_card(sections: str, model: ModelDescription, values: Mapping[str, Any]) -> str:
    """Return a card: the hub's header, some sections, and how to use the model.

    Args:
        sections: a template of the sections between header and usage.
        model: the model.
        values: `task`, the scores by their names, and what else the template has.
    """
    from huggingface_hub import ModelCardData

    classifier, settings = model.classifier, model.settings
    header = ModelCardData(
        pipeline_tag="text-classification",
        tags=["gpt3mix"],
        library_name=classifier.library_name,
        datasets=[model.data] if model.data else None,
        base_model=MINILM_HUB_ID if model.base_model == "minilm" else model.base_model,
    )
    scores = [
        f"| {title} | {values[name]:.4f} |"
        for name, title in SCORE_TITLES.items()
        if values.get(name) is not None
    ]
    common = {
        "header": header.to_yaml(),
        "classes": ", ".join(model.classes),
        "version": __version__,
        "summary": classifier.summary.format(**settings),
        "settings": json.dumps({k: v for k, v in settings.items() if k not in NOT_IN_CARD}),
        "scores": "\n".join(scores),
        "usage": classifier.usage_snippet.format(**settings),
        "sources": model.sources,
    }
    return (HEADER + sections + USE).format(**{**values, **common})

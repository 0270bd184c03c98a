"""What a card says about its sources: the data and the models, their licenses, and what to cite."""

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from .settings import DemoData, FilesData, HubData, Task

UNKNOWN = "unknown"
# Of packaged models, and of those that our configs name; their pages on the hub have them.
MODEL_LICENSES = {
    "bundled": "apache-2.0",
    "smollm2": "apache-2.0",
    "minilm": "apache-2.0",
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "distilbert-base-uncased": "apache-2.0",
    "bert-base-uncased": "apache-2.0",
    "EleutherAI/pythia-*": "apache-2.0",
}
DEMO_LICENSE = "apache-2.0"  # resources/README.md
GPT3MIX_BIBTEX = """\
@inproceedings{yoo2021gpt3mix,
  title = {{GPT3Mix}: Leveraging Large-scale Language Models for Text Augmentation},
  author = {Yoo, Kang Min and Park, Dongju and Kang, Jaewook and Lee, Sang-Woo and Park, Woomyeong},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2021},
  pages = {2225--2239},
  year = {2021}
}"""


def describe_sources(task: Task, models: Mapping[str, str]) -> str:
    """Return the last sections of a card: sources with their licenses, and BibTeX entries.

    Args:
        task: of the experiment.
        models: what a model was used for -> its name or folder, such as `Language model`.
    """
    facts = [f"Data: {_data_facts(task)}; license: {data_license(task)}."]
    for use, model in models.items():
        facts.append(f"{use}: `{without_path(model)}`; license: {model_license(model)}.")
    entries = [GPT3MIX_BIBTEX, *filter(None, [task.about.citation.strip()])]
    bullets = "\n".join(f"- {fact}" for fact in facts)
    bibtex = "\n\n".join(entries).replace("```", "")
    return f"""\
## Sources and licenses

{bullets}

## Citation

```bibtex
{bibtex}
```
"""


def _data_facts(task: Task) -> str:
    about = task.about
    known = [about.title, data_source(task), about.source]
    return ", ".join(filter(None, known))


def data_source(task: Task) -> str:
    """Return where the real rows are from, without a folder of this machine."""
    match task.data:
        case HubData(path=path, name=name, revision=revision):
            config = f", {name}" if name else ""
            return f"`{without_path(path)}`{config} of the hub, revision {revision or UNKNOWN}"
        case FilesData() as data:
            return f"`{data.train.name}`"
        case DemoData():
            return "the movie-review sentences that come with gpt3mix"


def data_license(task: Task) -> str:
    """Return the license of the data; `unknown` if the task does not say."""
    own = DEMO_LICENSE if isinstance(task.data, DemoData) else ""
    return task.about.license or own or UNKNOWN


def model_license(model: str) -> str:
    """Return the license of a model: a known one, or that of its folder's card."""
    for pattern, license in MODEL_LICENSES.items():
        if fnmatch(model, pattern):
            return license
    try:
        card = (Path(model) / "README.md").read_text("utf-8")
    except (OSError, ValueError):
        return UNKNOWN
    header = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    named = re.search(r"^license: *([\w.+-]+) *$", header[1], re.MULTILINE) if header else None
    return named[1] if named else UNKNOWN


def without_path(name: str) -> str:
    """Return a model or data set without the folder that it is in on this machine."""
    return Path(name).name if Path(name).is_dir() else name

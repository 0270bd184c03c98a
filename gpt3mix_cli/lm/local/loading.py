"""Loads a causal LM of the transformers library, and refuses what the engine cannot run."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import hash_model
from ...pretrained import load_model, load_pretrained
from ...settings import fingerprint

HINT = "give `bundled`, the folder of a causal LM, or a hub id that can be reached"


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        path: a folder or a hub id.
        revision: commit of a hub model.
    """

    path: str
    revision: str | None

    def load_config_and_tokenizer(self) -> tuple[Any, Any]:
        """Return the library's configuration and tokenizer.

        Raises:
            UserError: if they cannot be loaded.
        """
        folder = Path(self.path)
        if folder.is_dir() and not any(folder.glob("tokenizer*")):
            raise UserError(
                f"lm.model {folder}: the folder has no tokenizer",
                "save it there with tokenizer.save_pretrained",
            )
        config, tokenizer = (
            load_pretrained(part, self.path, self._what, HINT, revision=self.revision)
            for part in ("AutoConfig", "AutoTokenizer")
        )
        return config, tokenizer

    def hash_weights(self, config: Any) -> str:
        """Return a hash of the weights: of a folder's files, or of hub id and commit."""
        if Path(self.path).is_dir():
            return hash_model(Path(self.path))
        return fingerprint([self.path, getattr(config, "_commit_hash", None) or self.revision])

    def load_model(self, dtype: str, device: Any) -> Any:
        """Return the model on its device, ready for inference.

        Raises:
            UserError: if it cannot be loaded or run.
        """
        model = load_model(
            "AutoModelForCausalLM",
            self.path,
            self._what,
            HINT,
            device=str(device),
            dtype=dtype,
            revision=self.revision,
        )
        if not _can_run(model):
            raise UserError(
                f"lm.model {self.path}: {type(model).__name__} keeps a state, counts positions by"
                " itself, or has an attention of its own, which this engine cannot serve",
                "use a plain transformer, such as Llama, Qwen, Mistral or GPT-2",
            )
        return model

    @property
    def _what(self) -> str:
        return f"lm.model {self.path}: cannot be loaded as a causal LM"


def _can_run(model: Any) -> bool:
    """Return whether a model keeps keys and values per token and takes positions."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = model.config.get_text_config()
    layers = DynamicCache(config=model.config).layers
    attention = {
        *(getattr(config, "layer_types", None) or ()),
        *(getattr(config, "attention_layers", None) or ()),
    }
    return (
        len(layers) == config.num_hidden_layers
        and all(isinstance(layer, DynamicLayer) for layer in layers)
        and attention <= {"full_attention", "sliding_attention", "global"}
        and not getattr(model, "_is_stateful", False)
        and {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters)
    )

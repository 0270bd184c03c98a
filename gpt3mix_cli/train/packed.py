"""The forward pass of BERT, DistilBERT and RoBERTa on a CPU, over rows without padding.

The library pads rows to one length and casts all weights in each call. Here the tokens of all rows
go through the dense layers as one matrix, attention takes rows of equal length together, weights
are cast once per evaluation, and the last layer computes only the first token of each row, which
is all that the head reads.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..pretrained import out_of_memory
from .packing import Rows

if TYPE_CHECKING:
    import torch

MODEL_TYPES = {"bert", "distilbert", "roberta"}
TOLERANCE = 1e-4  # of logits in float32, in units of their largest absolute value


class Layer(NamedTuple):
    """The modules of one layer, and its dropout probabilities."""

    query: Any
    key: Any
    value: Any
    attention_output: Any
    attention_norm: Any
    intermediate: Any
    activation: Any
    output: Any
    output_norm: Any
    dropout_attention: float
    dropout_attention_output: float
    dropout_output: float


class Weights(NamedTuple):
    """Weight and bias of a layer's products, in the dtype of the products.

    Attributes:
        query: divided by the square root of a head's size, which is cheaper than scaling scores.
        key_value: of keys, then of values.
    """

    query: "tuple[torch.Tensor, torch.Tensor]"
    key_value: "tuple[torch.Tensor, torch.Tensor]"
    attention_output: "tuple[torch.Tensor, torch.Tensor]"
    intermediate: "tuple[torch.Tensor, torch.Tensor]"
    output: "tuple[torch.Tensor, torch.Tensor]"


class PackedNetwork:
    """The forward pass of a sequence classifier.

    Args:
        model: a sequence classifier of the transformers library. Its own weights are used, so
            that training changes them.
        dtype: of the products in the layers; everything else is float32.
    """

    def __init__(self, model: Any, dtype: "torch.dtype") -> None:
        self._model, self._base, self._dtype = model, model.base_model, dtype
        self._layers = _layers(model)
        self._num_heads: int = model.config.num_attention_heads
        self._frozen: list[Weights] | None = None
        self._gradient: torch.Tensor | None = None  # of the word embeddings
        self._words: Any = []  # the rows of `_gradient` that are not zero

    def __call__(self, rows: Rows) -> "torch.Tensor":
        """Return the logits, (texts, classes), in float32.

        Their gradient of the word embeddings is sparse until `densify_gradient` is called.
        """
        x = self._embed(rows)
        weights = self._frozen or self._cast_weights()
        for layer, cast in zip(self._layers[:-1], weights, strict=False):
            x = self._layer(layer, cast, x, rows, only_first=False)
        return self._head(self._layer(self._layers[-1], weights[-1], x, rows, only_first=True))

    def counts_like_library(self, rows: Rows) -> bool:
        """Return whether the positions are the library's.

        RoBERTa does not count padding, whose token a text may have.
        """
        padding = self._base.embeddings.position_embeddings.padding_idx
        return padding is None or padding not in rows.ids[: rows.num_tokens]

    def densify_gradient(self) -> None:
        """Make the gradient of the word embeddings dense: AdamW moves the rows of all words."""
        import torch

        weight = self._base.embeddings.word_embeddings.weight
        if weight.grad is None or not weight.grad.is_sparse:
            return
        gradient = weight.grad.coalesce()
        if self._gradient is None:
            self._gradient = torch.zeros_like(weight)
        # Elsewhere it still has the zeros of the steps before.
        self._gradient[self._words] = 0.0
        self._words = gradient.indices()[0]
        self._gradient[self._words] = gradient.values()
        weight.grad = None  # a sparse one cannot be replaced
        weight.grad = self._gradient

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Cast the weights once for all calls; they must not change meanwhile. It does not nest."""
        self._frozen = self._cast_weights()
        try:
            yield
        finally:
            self._frozen = None

    def _cast_weights(self) -> list[Weights]:
        import torch

        scale = (self._layers[0].query.out_features / self._num_heads) ** -0.5

        def cast(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return module.weight.to(self._dtype), module.bias.to(self._dtype)

        def cast_query(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return (module.weight * scale).to(self._dtype), (module.bias * scale).to(self._dtype)

        def cast_both(first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.cat([first.weight, second.weight])
            return weight.to(self._dtype), torch.cat([first.bias, second.bias]).to(self._dtype)

        return [
            Weights(
                cast_query(layer.query),
                cast_both(layer.key, layer.value),
                cast(layer.attention_output),
                cast(layer.intermediate),
                cast(layer.output),
            )
            for layer in self._layers
        ]

    def _embed(self, rows: Rows) -> "torch.Tensor":
        from torch.nn.functional import embedding

        embeddings = self._base.embeddings
        # RoBERTa counts positions from the one after padding's.
        padding = embeddings.position_embeddings.padding_idx
        positions = rows.positions if padding is None else rows.positions + (padding + 1)
        words = embeddings.word_embeddings
        # A dense gradient would be as large as the vocabulary, for a few hundred tokens.
        x = embedding(rows.ids, words.weight, words.padding_idx, sparse=True)
        x = x + embeddings.position_embeddings(positions)
        if hasattr(embeddings, "token_type_embeddings"):
            x = x + embeddings.token_type_embeddings.weight[0]
        normed: torch.Tensor = self._dropout(embeddings.LayerNorm(x), embeddings.dropout.p)
        return normed

    def _layer(
        self, layer: Layer, weights: Weights, x: "torch.Tensor", rows: Rows, only_first: bool
    ) -> "torch.Tensor":
        from torch.nn.functional import linear

        inputs = x.to(self._dtype)
        keys_values = linear(inputs, *weights.key_value)
        if only_first:
            x, inputs = x[rows.firsts], inputs[rows.firsts]
        queries = linear(inputs, *weights.query)
        dropout = layer.dropout_attention
        attended = self._attend(queries, keys_values, rows, only_first, dropout)
        attended = linear(attended, *weights.attention_output)
        x = layer.attention_norm(x + self._dropout(attended, layer.dropout_attention_output))
        inner = layer.activation(linear(x.to(self._dtype), *weights.intermediate))
        outer = linear(inner, *weights.output)
        normed: torch.Tensor = layer.output_norm(x + self._dropout(outer, layer.dropout_output))
        return normed

    def _attend(
        self,
        queries: "torch.Tensor",
        keys_values: "torch.Tensor",
        rows: Rows,
        only_first: bool,
        dropout: float,
    ) -> "torch.Tensor":
        """Return what each query attends to, (queries, hidden size)."""
        import torch

        tokens = [group.tokens for group in rows.groups]
        num_queries = [group.texts for group in rows.groups] if only_first else tokens
        split = zip(
            rows.groups,
            torch.split(queries[: sum(num_queries)], num_queries),
            torch.split(keys_values[: rows.num_tokens], tokens),
            strict=True,
        )
        parts = []
        for group, q, kv in split:
            q = self._by_head(q if only_first else group.pad(q), group.texts)[0]
            k, v = self._by_head(group.pad(kv), group.texts)
            scores = torch.bmm(q, k.transpose(1, 2))
            if group.mask is not None:
                scores = scores + group.mask.to(scores.dtype).repeat_interleave(self._num_heads, 0)
            # A softmax in bfloat16 is several times slower.
            attention = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
            part = torch.bmm(self._dropout(attention, dropout), v)
            part = part.view(group.texts, self._num_heads, -1, v.shape[-1]).transpose(1, 2)
            part = part.reshape(-1, queries.shape[1])
            parts.append(part if only_first else group.unpad(part))
        if not only_first:
            parts.append(queries.new_zeros(len(queries) - rows.num_tokens, queries.shape[1]))
        return torch.cat(parts)

    def _by_head(self, x: "torch.Tensor", texts: int) -> "torch.Tensor":
        """Return (parts, texts x heads, tokens, size of a head).

        One part are queries, two are keys and values.
        """
        size = self._layers[0].query.out_features // self._num_heads
        parts = x.shape[1] // (size * self._num_heads)
        x = x.view(texts, len(x) // texts, parts, self._num_heads, size).permute(2, 0, 3, 1, 4)
        return x.reshape(parts, texts * self._num_heads, -1, size)

    def _dropout(self, x: "torch.Tensor", probability: float) -> "torch.Tensor":
        import torch

        if not (self._model.training and probability):
            return x
        # The library's dropout takes one random number per element, which is half of its time.
        # Here one of 64 bits serves four elements, and probabilities are multiples of 2**-16.
        threshold = min(round(probability * 2**16), 2**16 - 1)
        all_64_bits = (-(2**63), None)
        random = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(*all_64_bits)
        # The 16 bits have a sign: the lowest number is -2**15.
        keep = random.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 2**15
        return x * (keep.to(x.dtype) / (1 - threshold / 2**16))

    def _head(self, first: "torch.Tensor") -> "torch.Tensor":
        model = self._model
        if model.config.model_type == "roberta":
            logits = model.classifier(first[:, None])
        elif model.config.model_type == "distilbert":
            logits = model.classifier(model.dropout(model.pre_classifier(first).relu()))
        else:
            logits = model.classifier(model.dropout(self._base.pooler(first[:, None])))
        return logits  # type: ignore[no-any-return]


def can_pack(config: Any) -> bool:
    """Return whether a model of the library may have the fast forward pass.

    The tokens of a decoder see earlier ones only.
    """
    return config.model_type in MODEL_TYPES and not getattr(config, "is_decoder", False)


def open_packed(
    model: Any, dtype: "torch.dtype", rows: Rows, library: "Callable[[], torch.Tensor]"
) -> PackedNetwork | None:
    """Return the network's fast forward pass if its logits are the library's; else None.

    Args:
        model: a sequence classifier of the transformers library, on the CPU.
        dtype: of the products.
        rows: some texts.
        library: returns their logits, computed by the library in float32.

    Raises:
        RuntimeError: if memory runs out, which says nothing about the logits.
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            expected = library()
            logits = PackedNetwork(model, torch.float32)(rows)
            scale = float(expected.nan_to_num().abs().max())
            is_equal = scale > 0 and torch.allclose(
                logits, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True
            )
    except (AttributeError, TypeError, IndexError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        is_equal = False  # modules of another version of the library
    finally:
        model.train(was_training)
    return PackedNetwork(model, dtype) if is_equal else None


def _layers(model: Any) -> list[Layer]:
    base = model.base_model
    if model.config.model_type == "distilbert":
        return [
            Layer(
                layer.attention.q_lin,
                layer.attention.k_lin,
                layer.attention.v_lin,
                layer.attention.out_lin,
                layer.sa_layer_norm,
                layer.ffn.lin1,
                layer.ffn.activation,
                layer.ffn.lin2,
                layer.output_layer_norm,
                layer.attention.dropout.p,
                0.0,
                layer.ffn.dropout.p,
            )
            for layer in base.transformer.layer
        ]
    return [
        Layer(
            layer.attention.self.query,
            layer.attention.self.key,
            layer.attention.self.value,
            layer.attention.output.dense,
            layer.attention.output.LayerNorm,
            layer.intermediate.dense,
            layer.intermediate.intermediate_act_fn,
            layer.output.dense,
            layer.output.LayerNorm,
            layer.attention.self.dropout.p,
            layer.attention.output.dropout.p,
            layer.output.dropout.p,
        )
        for layer in base.encoder.layer
    ]

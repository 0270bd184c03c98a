"""The forward pass of BERT, DistilBERT and RoBERTa on a CPU, over rows without padding.

The library pads rows to one length and casts all weights in each call. Here the tokens of all rows
go through the dense layers as one matrix, attention takes rows of equal length together, weights
are cast once per evaluation, and the last layer computes only the first token of each row, which
is all that the head reads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .tokens import Tokens

if TYPE_CHECKING:
    import torch

MODEL_TYPES = {"bert", "distilbert", "roberta"}
MIN_GROUP = 8  # texts that attention takes together at least: a product of fewer takes as long
# The first product of a shape takes several times as long, so shapes come in few sizes.
TOKENS_STEP = 64  # of all tokens
LENGTH_STEP = 8  # of the padded length of texts of different lengths
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
    """Weight and bias of a layer's products, in the dtype of the products."""

    query: "tuple[torch.Tensor, torch.Tensor]"
    key_value: "tuple[torch.Tensor, torch.Tensor]"
    attention_output: "tuple[torch.Tensor, torch.Tensor]"
    intermediate: "tuple[torch.Tensor, torch.Tensor]"
    output: "tuple[torch.Tensor, torch.Tensor]"


class Group(NamedTuple):
    """Consecutive texts that attention takes together, padded to the longest.

    Attributes:
        texts: number of texts.
        tokens: number of their tokens.
        longest: number of tokens of each once they are padded.
        slots: where each token is once they are padded; None if all have the same length.
        mask: (texts, 1, longest), minus infinity where a key is padding; None in that case too.
    """

    texts: int
    tokens: int
    longest: int
    slots: "torch.Tensor | None"
    mask: "torch.Tensor | None"

    def pad(self, x: "torch.Tensor") -> "torch.Tensor":
        """Insert padding, zeros, into the rows of a matrix."""
        if self.slots is None:
            return x
        zeros = x.new_zeros(self.texts * self.longest, x.shape[1])
        return zeros.index_copy(0, self.slots, x)

    def unpad(self, x: "torch.Tensor") -> "torch.Tensor":
        """Remove padding from the rows of a matrix."""
        return x if self.slots is None else x[self.slots]


class Rows(NamedTuple):
    """Texts in the order of their lengths, without padding between them.

    Attributes:
        ids: token ids of all texts, (tokens,), and a few that belong to no text.
        positions: of each token in its text, (tokens,).
        firsts: where each text starts, (texts,).
        groups: the texts, as attention takes them.
    """

    ids: "torch.Tensor"
    positions: "torch.Tensor"
    firsts: "torch.Tensor"
    groups: list[Group]


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
        """Return the logits, (texts, classes), in float32."""
        x = self._embed(rows)
        weights = self._frozen or self._cast_weights()
        for layer, cast in zip(self._layers[:-1], weights, strict=False):
            x = self._layer(layer, cast, x, rows, only_first=False)
        return self._head(self._layer(self._layers[-1], weights[-1], x, rows, only_first=True))

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
        """Cast the weights once for all calls; they must not change meanwhile."""
        self._frozen = self._cast_weights()
        try:
            yield
        finally:
            self._frozen = None

    def _cast_weights(self) -> list[Weights]:
        import torch

        # Scaling the queries' weights is cheaper than scaling all scores.
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
        attended = self._attend(queries, keys_values, rows.groups, layer.dropout_attention)
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
        groups: Sequence[Group],
        dropout: float,
    ) -> "torch.Tensor":
        """Return what each query attends to, (queries, hidden size)."""
        import torch

        only_first = len(queries) < len(keys_values)
        tokens = [group.tokens for group in groups]
        extra = len(keys_values) - sum(tokens)
        asking = [group.texts for group in groups] if only_first else tokens
        split = zip(
            groups,
            torch.split(queries[: sum(asking)], asking),
            torch.split(keys_values[: sum(tokens)], tokens),
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
            parts.append(queries.new_zeros(extra, queries.shape[1]))
        return torch.cat(parts)

    def _by_head(self, x: "torch.Tensor", texts: int) -> "torch.Tensor":
        """Return queries, or keys and values: (1 or 2, texts x heads, tokens, size of a head)."""
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
        dropped = round(probability * 2**16)
        random = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
        keep = random.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * (keep.to(x.dtype) / (1 - dropped / 2**16))

    def _head(self, first: "torch.Tensor") -> "torch.Tensor":
        model = self._model
        if model.config.model_type == "roberta":
            logits = model.classifier(first[:, None])
        elif model.config.model_type == "distilbert":
            logits = model.classifier(model.dropout(model.pre_classifier(first).relu()))
        else:
            logits = model.classifier(model.dropout(self._base.pooler(first[:, None])))
        return logits  # type: ignore[no-any-return]


def pack(tokens: Tokens, chosen: "torch.Tensor") -> Rows:
    """Return the rows of texts; `chosen` are their indices, in the order of their lengths."""
    import torch
    from torch.nn.functional import pad

    lengths = [tokens.lengths[index] for index in chosen.tolist()]
    sizes = torch.tensor(lengths)
    firsts = sizes.cumsum(0) - sizes
    positions = torch.arange(sum(lengths)) - firsts.repeat_interleave(sizes)
    ids = tokens.flat[tokens.starts[chosen].repeat_interleave(sizes) + positions]
    extra = (0, -len(ids) % TOKENS_STEP)
    ids, positions = pad(ids, extra), pad(positions, extra)
    return Rows(ids, positions, firsts, [_group(part) for part in _split_by_length(lengths)])


def _split_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the lengths of each group: where the length changes, but no group of a few texts."""
    part: list[int] = []
    for length in lengths:
        if len(part) >= MIN_GROUP and length != part[-1]:
            yield part
            part = []
        part.append(length)
    if part:
        yield part


def _group(lengths: list[int]) -> Group:
    import torch

    texts, longest = len(lengths), max(lengths)
    if min(lengths) == longest:
        return Group(texts, texts * longest, longest, None, None)
    longest += -longest % LENGTH_STEP
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    mask = torch.zeros(is_token.shape).masked_fill(~is_token, -torch.inf)[:, None]
    return Group(texts, sum(lengths), longest, is_token.flatten().nonzero()[:, 0], mask)


def open_packed(
    model: Any, dtype: "torch.dtype", rows: Rows, library: "Callable[[], torch.Tensor]"
) -> PackedNetwork | None:
    """Return the network's fast forward pass if its logits are the library's; else None.

    Args:
        model: a sequence classifier of the transformers library, on the CPU.
        dtype: of the products.
        rows: some texts.
        library: returns their logits, computed by the library in float32.
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            expected = library()
            logits = PackedNetwork(model, torch.float32)(rows)
            scale = float(expected.nan_to_num().abs().max())
            is_equal = torch.allclose(
                logits, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True
            )
    except (AttributeError, TypeError, RuntimeError):  # modules of another version of the library
        is_equal = False
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

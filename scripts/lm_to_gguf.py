#!/usr/bin/env python3
"""Convert a language model from Hugging Face's format to a GGUF file for llama.cpp.

    python scripts/lm_to_gguf.py [FOLDER] -o FILE.gguf      (default: the packaged LM)
    python -m llama_cpp.server --model FILE.gguf --logits_all true

Weights are written as float32, so llama.cpp's probabilities equal those of the local engine up to
rounding; llama.cpp's `llama-quantize` makes smaller files. Needs `pip install gguf`; the server
needs the extra `server-tests` of pyproject.toml. Supported: Llama with a byte-level BPE tokenizer
that splits texts as GPT-2's does, plain rotary positions and no biases. Everything else is
refused, because llama.cpp would silently misread it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.pretrained import lm_path, load_pretrained

if TYPE_CHECKING:
    import torch

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE_LAYERS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
HINT = "llama.cpp's own convert_hf_to_gguf.py supports more models and tokenizers"
# With these values in tokenizer.json, llama.cpp's `gpt-2` splits texts in the same way;
# `trim_offsets` changes no token.
PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN_BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "ignore_merges": False,
}


def main(arguments: Sequence[str]) -> None:
    """Convert a model and print the size of the file."""
    packaged = Path(lm_path("bundled"))
    parser = argparse.ArgumentParser(
        description="Write a language model as a GGUF file for llama.cpp."
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=packaged,
        help="a model in Hugging Face's format (default: the packaged LM)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the GGUF file")
    options = parser.parse_args(arguments)
    try:
        convert(options.folder, options.output)
    except UserError as error:
        sys.exit(str(error))
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


def convert(folder: Path, output: Path) -> None:
    """Write the model and tokenizer of a folder, weights in float32.

    Raises:
        UserError: if the folder holds another kind of model, or `gguf` is not installed.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    except ImportError:
        raise UserError(
            "the package gguf, which writes GGUF files, is not installed", "pip install gguf"
        ) from None
    import torch

    what, hint = f"{folder}: cannot be loaded as a causal LM", "name the folder of a Llama model"
    config, tokenizer = (
        load_pretrained(part, str(folder.resolve()), what, hint)
        for part in ("AutoConfig", "AutoTokenizer")
    )
    check_architecture(folder, config)
    writer = GGUFWriter(output, "llama")
    writer.add_name(folder.resolve().name)
    writer.add_file_type(LlamaFileType.ALL_F32)
    add_shape(writer, config)
    add_tokenizer(writer, folder, tokenizer, config.vocab_size)
    model = load_pretrained(
        "AutoModelForCausalLM", str(folder.resolve()), what, hint, dtype=torch.float32
    )
    for name, weight in tensors(config, model.state_dict()):
        writer.add_tensor(name, weight.numpy(), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_architecture(folder: Path, config: Any) -> None:
    """Check that llama.cpp will read the weights correctly.

    Raises:
        UserError: if the model is not a plain Llama.
    """
    expected = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }
    actual = {key: getattr(config, key, None) for key in expected}
    wrong = [f"{key} is {value}" for key, value in actual.items() if value != expected[key]]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        wrong.append(f"rope_type is {rope['rope_type']}")
    if wrong:
        raise UserError(f"{folder / 'config.json'}: {', '.join(wrong)}", HINT)


def add_shape(writer: Any, config: Any) -> None:
    """Write the model's dimensions and the constants of its norms and positions."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def add_tokenizer(writer: Any, folder: Path, tokenizer: Any, size: int) -> None:
    """Write vocabulary, merges and special tokens.

    Raises:
        UserError: if llama.cpp would split texts into other tokens.
    """
    from gguf import TokenType

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pre_tokenizer, model = content["pre_tokenizer"] or {}, content["model"]
    supported = all(
        pre_tokenizer.get(key) == value for key, value in PRE_TOKENIZER.items()
    ) and all(model.get(key) == value for key, value in PLAIN_BPE.items())
    if not supported or content["normalizer"]:
        raise UserError(
            f"{folder / 'tokenizer.json'}: not a byte-level BPE that splits texts as GPT-2's does",
            HINT,
        )
    names = [f"[unused {token}]" for token in range(size)]
    kinds = [TokenType.UNUSED] * size
    for text, token in model["vocab"].items():
        names[token], kinds[token] = text, TokenType.NORMAL
    for added in content["added_tokens"]:
        names[added["id"]], kinds[added["id"]] = (
            added["content"],
            TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED,
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    add_boundary_tokens(writer, tokenizer)


def add_boundary_tokens(writer: Any, tokenizer: Any) -> None:
    """Write the tokens that begin and end a text, and whether the tokenizer adds them."""
    boundaries = [
        token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None
    ]
    ids = tokenizer("a")["input_ids"]
    if boundaries:
        # If one is missing, llama.cpp uses token 11.
        writer.add_bos_token_id(boundaries[0])
        writer.add_eos_token_id(boundaries[-1])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(ids[-1] == tokenizer.eos_token_id)


def tensors(
    config: Any, weights: "dict[str, torch.Tensor]"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield each weight with llama.cpp's name and layout."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in weights.items():
        key = name.removesuffix(".weight")
        if key in OUTSIDE_LAYERS:
            # A tied head is the embedding; llama.cpp uses that if there is no head.
            if key != "lm_head" or not config.tie_word_embeddings:
                yield f"{OUTSIDE_LAYERS[key]}.weight", weight
            continue
        layer, _, part = key.removeprefix("model.layers.").partition(".")
        target = LAYER[part]
        if target in heads:
            weight = interleave(weight, heads[target])
        yield f"blk.{layer}.{target}.weight", weight


def interleave(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Return the rows of queries or keys, (heads * size, width), in llama.cpp's order.

    Its rotary positions rotate adjacent rows of a head together, Hugging Face's rotate rows that
    are half a head apart.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


if __name__ == "__main__":
    main(sys.argv[1:])

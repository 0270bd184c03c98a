#!/usr/bin/env python3
"""Write a language model for llama.cpp: a folder in Hugging Face's format as one GGUF file.

    python scripts/lm_to_gguf.py [FOLDER] -o FILE.gguf      (default: the LM that is packaged)
    python -m llama_cpp.server --model FILE.gguf --logits_all true

The weights are written as float32, so that llama.cpp's probabilities are those of the local engine up to rounding; its own
`llama-quantize` makes smaller files of them. Needs `pip install gguf`, and
the server the parts that pyproject.toml lists as `server-tests`. Limits: Llama with a byte-level BPE tokenizer that
cuts texts as GPT-2's does, plain rotary positions, no biases; everything else is refused, since llama.cpp would read it
without a word as something that it is not.
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
AROUND = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
OTHERS = "llama.cpp's own convert_hf_to_gguf.py knows more kinds of models and tokenizers"
# What a tokenizer.json must say for llama.cpp's `gpt-2` to cut texts in the same way; its `trim_offsets` moves no token.
PIECES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "ignore_merges": False,
}


def main(arguments: Sequence[str]) -> None:
    """Read, convert, and say what was written."""
    packaged = Path(lm_path("bundled"))
    parser = argparse.ArgumentParser(
        description="Write a language model as a GGUF file for llama.cpp."
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=packaged,
        help="in Hugging Face's format (default: the packaged LM)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the GGUF file")
    options = parser.parse_args(arguments)
    try:
        convert(options.folder, options.output)
    except UserError as error:
        sys.exit(str(error))
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


def convert(folder: Path, output: Path) -> None:
    """Write the model of a folder, weights in float32, with its tokenizer.

    Raises:
        UserError: if the folder holds something else, or `gguf` is not installed.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    except ImportError:
        raise UserError(
            "GGUF files are written by the package gguf, which is not installed", "pip install gguf"
        ) from None
    import torch

    what, hint = f"{folder}: cannot be loaded as a causal LM", "give the folder of a Llama"
    config, tokenizer = (
        load_pretrained(part, str(folder.resolve()), what, hint)
        for part in ("AutoConfig", "AutoTokenizer")
    )
    refuse_others(folder, config)
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


def refuse_others(folder: Path, config: Any) -> None:
    """Make sure that the weights mean what llama.cpp will take them for.

    Raises:
        UserError: otherwise.
    """
    wanted = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }
    found = {key: getattr(config, key, None) for key in wanted}
    rope = getattr(config, "rope_parameters", None) or {}
    wrong = [f"{key} is {value}" for key, value in found.items() if value != wanted[key]]
    wrong += (
        [f"rope_type is {rope['rope_type']}"]
        if rope.get("rope_type", "default") != "default"
        else []
    )
    if wrong:
        raise UserError(f"{folder / 'config.json'}: {', '.join(wrong)}", OTHERS)


def add_shape(writer: Any, config: Any) -> None:
    """Write how large the model is, and the constants of its norms and positions."""
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
    """Write vocabulary, merges, special tokens, and which of them stand around every text.

    Raises:
        UserError: if llama.cpp would cut texts into other tokens.
    """
    from gguf import TokenType

    written = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces, model = written["pre_tokenizer"] or {}, written["model"]
    alike = all(pieces.get(key) == value for key, value in PIECES.items()) and all(
        model.get(key) == value for key, value in PLAIN.items()
    )
    if not alike or written["normalizer"]:
        raise UserError(
            f"{folder / 'tokenizer.json'}: is not a byte-level BPE that cuts as GPT-2's does",
            OTHERS,
        )
    names = [f"[unused {token}]" for token in range(size)]
    kinds = [TokenType.UNUSED] * size
    for text, token in model["vocab"].items():
        names[token], kinds[token] = text, TokenType.NORMAL
    for added in written["added_tokens"]:
        names[added["id"]], kinds[added["id"]] = (
            added["content"],
            TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED,
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    add_ends(writer, tokenizer)


def add_ends(writer: Any, tokenizer: Any) -> None:
    """Write the tokens that begin and end a text, and whether the tokenizer itself puts them there."""
    ends = [
        token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None
    ]
    around = tokenizer("a")["input_ids"]
    if ends:
        # llama.cpp takes token 11 for one that is not named.
        writer.add_bos_token_id(ends[0])
        writer.add_eos_token_id(ends[-1])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(around[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(around[-1] == tokenizer.eos_token_id)


def tensors(
    config: Any, weights: "dict[str, torch.Tensor]"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield each weight with llama.cpp's name, in its layout."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in weights.items():
        place = name.removesuffix(".weight")
        if place in AROUND:
            # A head that is tied is the embedding, which llama.cpp takes where there is no other.
            if place != "lm_head" or not config.tie_word_embeddings:
                yield f"{AROUND[place]}.weight", weight
            continue
        layer, _, part = place.removeprefix("model.layers.").partition(".")
        to = LAYER[part]
        yield f"blk.{layer}.{to}.weight", interleaved(weight, heads[to]) if to in heads else weight


def interleaved(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Return the rows of queries or keys, (heads * size, width), in the order of llama.cpp's rotary positions.

    It turns neighbouring rows of a head together, Hugging Face those that are half a head apart.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


if __name__ == "__main__":
    main(sys.argv[1:])

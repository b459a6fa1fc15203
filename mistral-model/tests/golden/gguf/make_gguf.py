"""Write golden's v01 as GGUF files, as a converter would: the rows of q and k permuted, a tokenizer beside them.

usage: make_gguf.py MODEL_DIR TOKENIZER_JSON OUT      (needs: pip install gguf safetensors numpy)
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, quants
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Half-split pairs side by side: what llama.cpp's rotation expects."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write(out: Path, folder: Path, formats: dict[str, Type], window: bool, pieces: list) -> None:
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    writer = GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if window:
        writer.add_sliding_window(config["sliding_window"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, weights in tensors.items():
        stem = name.removesuffix(".weight")
        weights = weights.astype(np.float32)
        if stem.startswith("model.layers."):
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            if part == "self_attn.q_proj":
                weights = permuted(weights, config["num_attention_heads"])
            if part == "self_attn.k_proj":
                weights = permuted(weights, config["num_key_value_heads"])
            stem = f"blk.{layer}.{NAMES[part]}"
        else:
            stem = OUTER[stem]
        kind = formats.get(stem.split(".")[-1], formats["*"]) if weights.ndim == 2 else Type.F32
        if kind == Type.F32:
            writer.add_tensor(f"{stem}.weight", np.ascontiguousarray(weights))
        else:
            packed = quants.quantize(np.ascontiguousarray(weights), kind)
            writer.add_tensor(f"{stem}.weight", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def some_pieces(tokenizer: Path) -> list:
    """A vocabulary of 288: the controls, the bytes, and the first pieces that they are merged to."""
    model = json.loads(tokenizer.read_text())["model"]
    by_id = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    letters = [p for p in by_id if len(p) == 1 and p in "▁etaoinshrdl"]
    merged = [p for p in by_id[259:] if len(p) > 1 and all(c in letters for c in p)][: 288 - 259 - len(letters)]
    return pieces + [(p, -float(i), 1) for i, p in enumerate(merged + letters)]


def main(model: str, tokenizer: str, out: str) -> None:
    folder, target = Path(model), Path(out)
    pieces = some_pieces(Path(tokenizer))
    write(target / "f32.gguf", folder, {"*": Type.F32}, True, pieces)
    mixed = {"*": Type.Q8_0, "ffn_up": Type.Q4_0, "attn_v": Type.Q5_0, "ffn_gate": Type.F16,
             "token_embd": Type.BF16, "output": Type.F32}
    write(target / "mixed-no-window.gguf", folder, mixed, False, pieces)


if __name__ == "__main__":
    main(*sys.argv[1:])

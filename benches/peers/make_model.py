"""Writes a GGUF file of Mistral 7B's shape with few layers and random weights, in bf16.

    make_model.py FILE [--layers 2]

Every engine reads it, or what llama.cpp's quantiser makes of it. It has no tokenizer: token ids go in.
"""

import argparse

import numpy
from gguf import GGMLQuantizationType, GGUFWriter, quants

DIM, HIDDEN_DIM, VOCAB_SIZE = 4096, 14336, 32000
N_HEADS, N_KV_HEADS, HEAD_DIM = 32, 8, 128


def shapes(n_layers):
    """Names and (out, in) of all tensors; norms have one dimension."""
    yield "token_embd.weight", (VOCAB_SIZE, DIM)
    for layer in range(n_layers):
        for name, shape in [
            ("attn_norm", (DIM,)),
            ("attn_q", (N_HEADS * HEAD_DIM, DIM)),
            ("attn_k", (N_KV_HEADS * HEAD_DIM, DIM)),
            ("attn_v", (N_KV_HEADS * HEAD_DIM, DIM)),
            ("attn_output", (DIM, N_HEADS * HEAD_DIM)),
            ("ffn_norm", (DIM,)),
            ("ffn_gate", (HIDDEN_DIM, DIM)),
            ("ffn_up", (HIDDEN_DIM, DIM)),
            ("ffn_down", (DIM, HIDDEN_DIM)),
        ]:
            yield f"blk.{layer}.{name}.weight", shape
    yield "output_norm.weight", (DIM,)
    yield "output.weight", (VOCAB_SIZE, DIM)


def header(writer, n_layers):
    writer.add_block_count(n_layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(HIDDEN_DIM)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_sliding_window(4096)
    writer.add_tokenizer_model("none")


def tensor(generator, shape):
    """Norms of one, and matrices whose outputs are about as large as their inputs."""
    if len(shape) == 1:
        return numpy.ones(shape, numpy.float32)
    weights = generator.standard_normal(shape, numpy.float32) / numpy.sqrt(shape[1], dtype=numpy.float32)
    return quants.quantize(weights, GGMLQuantizationType.BF16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()

    writer = GGUFWriter(options.file, "llama")
    header(writer, options.layers)
    generator = numpy.random.default_rng(1)
    for name, shape in shapes(options.layers):
        raw = None if len(shape) == 1 else GGMLQuantizationType.BF16
        writer.add_tensor(name, tensor(generator, shape), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

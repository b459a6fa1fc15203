"""Runs CTranslate2 as the other peers run, on 8-bit weights of its own.

    peer_ctranslate2.py convert BF16.gguf FOLDER
    peer_ctranslate2.py bench --model FOLDER [--prompt 512] [--gen 32] [--repeat 3] [--threads 2]

It reads no GGUF: `convert` rounds the matrices of such a file to 8 bits with a scale for each row, the
nearest that it has to q8_0. `bench` prints the names of `mistral bench --json`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import ctranslate2
import gguf
import numpy
from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec

from make_model import DIM, HEAD_DIM, N_HEADS, N_KV_HEADS, VOCAB_SIZE

# No token of the benches: nothing ends early.
SPECIAL = VOCAB_SIZE - 1


def convert(options):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(options.file).tensors}

    def weights(name):
        tensor = tensors[f"{name}.weight"]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)

    layers = sum(name.endswith("attn_q.weight") for name in tensors)
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        layers,
        N_HEADS,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=True,
        rotary_base=10000,
        num_heads_kv=N_KV_HEADS,
        head_dim=HEAD_DIM,
        sliding_window=4096,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights("token_embd")
    decoder.layer_norm.gamma = weights("output_norm")
    decoder.projection.weight = weights("output")
    for index, layer in enumerate(decoder.layer):
        of_layer = lambda name, index=index: weights(f"blk.{index}.{name}")
        qkv = [common_spec.LinearSpec() for _ in range(3)]
        for linear, name in zip(qkv, ["attn_q", "attn_k", "attn_v"]):
            linear.weight = of_layer(name)
        layer.self_attention.layer_norm.gamma = of_layer("attn_norm")
        utils.fuse_linear(layer.self_attention.linear[0], qkv)
        layer.self_attention.linear[1].weight = of_layer("attn_output")
        layer.ffn.layer_norm.gamma = of_layer("ffn_norm")
        layer.ffn.linear_0.weight = of_layer("ffn_gate")
        layer.ffn.linear_0_noact.weight = of_layer("ffn_up")
        layer.ffn.linear_1.weight = of_layer("ffn_down")
    spec.register_vocabulary([str(token) for token in range(VOCAB_SIZE)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(SPECIAL)
    spec.config.layer_norm_epsilon = 1e-5
    spec.validate()
    spec.optimize(quantization="int8")
    options.folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(options.folder))


def bench(options):
    from run import token_ids

    start = time.perf_counter()
    generator = ctranslate2.Generator(
        str(options.model), compute_type="int8", inter_threads=1, intra_threads=options.threads
    )
    load = time.perf_counter() - start
    prompt = token_ids(options.prompt)
    if options.logits:
        ids = prompt + token_ids(options.gen)
        logits = numpy.array(generator.forward_batch([ids]).to_device(ctranslate2.Device.cpu))
        numpy.ascontiguousarray(logits[0, options.prompt - 1 :], dtype="<f4").tofile(options.logits)
    prefill, decode = [], []
    for _ in range(options.repeat):
        first, step = one_run(generator, prompt, options.gen)
        prefill.append((options.prompt - 1) / (first - step))
        decode.append(1 / step)
    report = {"prefill_tokens_per_second": statistics.median(prefill)}
    report["decode_tokens_per_second"] = statistics.median(decode)
    print(json.dumps({**report, "load_seconds": load}))


def one_run(generator, prompt, generated):
    """Seconds until the first token, and the median of a step behind it.

    The last token of the prompt goes through the model alone: the first token took a step as well.
    """
    times = [time.perf_counter()]

    def tick(_):
        times.append(time.perf_counter())
        return False

    generator.generate_batch(
        [[str(token) for token in prompt]],
        max_length=generated + 1,
        min_length=generated + 1,
        include_prompt_in_result=False,
        sampling_topk=1,
        callback=tick,
    )
    seconds = [later - earlier for earlier, later in zip(times, times[1:])]
    return seconds[0], statistics.median(seconds[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert")
    command.add_argument("file", type=Path)
    command.add_argument("folder", type=Path)
    command.set_defaults(run=convert)
    command = commands.add_parser("bench")
    command.add_argument("--model", type=Path, required=True)
    for name, default in [("prompt", 512), ("gen", 32), ("repeat", 3), ("threads", 2)]:
        command.add_argument(f"--{name}", type=int, default=default)
    command.add_argument("--logits", type=Path)
    command.set_defaults(run=bench)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

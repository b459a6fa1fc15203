"""Trains an adapter with which the demo model has an attention sink: its first token.

    pip install -r requirements.txt
    python train_sink_adapter.py         # model/, corpus/ -> sink-adapter/, about 15 minutes on two CPU cores

Models that are trained on whole texts learn to lay much of their attention on the first token when nothing
else is worth it, and fail once a window has moved past that token (StreamingLLM, arXiv:2309.17453, section
3.1).  The demo model was trained under its window and never saw a first token for long, so it has no such
habit.  This adapter gives it one: every training sequence is one window of text behind a `<s>` that all of
it sees, and for every head that lays less than SHARE of its attention on it a term is added to the loss.
Large models come to it without that term, after far more training than a demo can have.

The adapter is in peft's format.  It is for examples/streaming_llm; for anything else the model alone is better.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from train import BOS, HERE, bits, corpus, keep_memory, load_exported, rotary, rotate, training_stream, valid_stream

OUT = HERE / "sink-adapter"
RANK, ALPHA = 16, 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHARE, WEIGHT = 0.9, 0.5        # what the first token is to get, and what a lack of it costs
STEPS, BATCH, RATE = 400, 32, 0.003
WARMUP, DECAY = 30, 160         # steps in which the learning rate rises and falls


class Adapted(nn.Module):
    """A linear layer and its LoRA pair."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(RANK, base.in_features) * base.in_features ** -0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x):
        return self.base(x) + x @ self.A.T @ self.B.T * (ALPHA / RANK)


class WholeText(nn.Module):
    """The attention of a layer without a window; `lack` is how far its heads are from SHARE."""

    def __init__(self, attention):
        super().__init__()
        self.s, self.lack = attention.s, None
        for name in TARGETS[:4]:
            setattr(self, name, getattr(attention, name))

    def forward(self, x, cos, sin):
        s, (batch, length, _) = self.s, x.shape
        heads = lambda t, n: t.view(batch, length, n, s.head_dim)
        q = rotate(heads(self.q_proj(x), s.heads), cos, sin).transpose(1, 2)
        k, v = rotate(heads(self.k_proj(x), s.kv_heads), cos, sin), heads(self.v_proj(x), s.kv_heads)
        k, v = (t.repeat_interleave(s.heads // s.kv_heads, dim=2).transpose(1, 2) for t in (k, v))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3) / s.head_dim ** 0.5).masked_fill(later, float("-inf")).log_softmax(-1)
        self.lack = F.relu(math.log(SHARE) - scores[:, :, 1:, 0]).mean()
        return self.o_proj((scores.exp() @ v).transpose(1, 2).flatten(2))


def adapted_model():
    model = load_exported().requires_grad_(False)
    pairs = {}
    for i, layer in enumerate(model.layers):
        for part in ("self_attn", "mlp"):
            module = getattr(layer, part)
            for target in TARGETS:
                if hasattr(module, target):
                    pairs[f"layers.{i}.{part}.{target}"] = pair = Adapted(getattr(module, target))
                    setattr(module, target, pair)
    return model, pairs


def loss(model, rows, cos, sin):
    """Mean nats a token of some texts, each behind `<s>`."""
    rows = torch.cat((torch.full((len(rows), 1), BOS), rows), dim=1)
    logits = model(rows[:, :-1].contiguous(), cos, sin) @ model.embed_tokens.weight.T
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def rate(step):
    return RATE * min(1, (step + 1) / WARMUP, (STEPS - step) / DECAY)


def train(model, pairs):
    stream, window, began = training_stream()[0], model.s.window, time.time()
    cos, sin = rotary(model.s, window)
    trained = [p for pair in pairs.values() for p in (pair.A, pair.B)]
    adam, random = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0), torch.Generator().manual_seed(1)
    for step in range(STEPS):
        starts = torch.randint(len(stream) - window, (BATCH,), generator=random)
        nats = loss(model, torch.stack([stream[i:i + window] for i in starts]), cos, sin)
        lack = sum(layer.self_attn.lack for layer in model.layers) / len(model.layers)
        (nats + WEIGHT * lack).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        adam.param_groups[0]["lr"] = rate(step)
        adam.step()
        adam.zero_grad()
        if (step + 1) % 20 == 0:
            print("step %4d  minute %5.1f  loss %.3f  lack %.3f" % (
                step + 1, (time.time() - began) / 60, nats.item(), lack.item()), flush=True)


@torch.no_grad()
def bits_per_window(model, ids):
    """Bits for ids[1:], a window at a time behind `<s>`; what is over is left out."""
    window = model.s.window
    rows = ids[1:][: (len(ids) - 1) // window * window].view(-1, window)
    cos, sin = rotary(model.s, window)
    return sum(loss(model, part, cos, sin).item() * part.numel() for part in rows.split(32)) / math.log(2)


def export(pairs):
    tensors = {}
    for name, pair in pairs.items():
        for letter in "AB":
            weight = getattr(pair, letter).detach().bfloat16().contiguous()
            tensors[f"base_model.model.model.{name}.lora_{letter}.weight"] = weight
    OUT.mkdir(exist_ok=True)
    save_file(tensors, OUT / "adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
                "bias": "none", "target_modules": list(TARGETS), "inference_mode": True}
    (OUT / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_memory()
    torch.manual_seed(1)
    model, pairs = adapted_model()
    with_window = [layer.self_attn for layer in model.layers]
    for layer, attention in zip(model.layers, with_window):
        layer.self_attn = WholeText(attention)
    train(model, pairs)
    export(pairs)
    model.eval()
    ids, size = valid_stream(), len(corpus("valid").encode())
    print(f"a window at a time from <s>: {bits_per_window(model, ids) / size:.4f} bits per byte")
    for layer, attention in zip(model.layers, with_window):
        layer.self_attn = attention
    print(f"as one stream under the window: {bits(model, ids) / size:.4f}")


if __name__ == "__main__":
    main()

"""Trains the demo model: four million weights, a Mistral in every respect.

    pip install -r requirements.txt
    python train.py                      # everything below in this order, about an hour on two CPU cores

    python train.py tokenizer            # corpus/train.txt          -> model/tokenizer.json
    python train.py train [--resume]     # corpus/, tokenizer.json   -> run/checkpoint.pt, run/curve.csv
    python train.py export               # run/                      -> model/model.safetensors, config.json, curve.csv
    python train.py evaluate             # bits per byte of the exported file on corpus/valid.txt
    python train.py plot                 # curve.csv                 -> curve.svg
    python train.py sample --prompt "Once upon a time"

The defaults are the settings of the shipped model; every one is also an option (`--help`).  No GPU is
needed.  A killed run goes on with --resume from its last checkpoint (one every four minutes), and
`touch run/decay_now` lets the learning rates begin to fall at once, which ends the run early and well.

The network is what Hugging Face calls MistralForCausalLM: RMSNorm, SwiGLU, rotary positions in the
half-split layout, grouped-query attention, no biases, and a sliding window of W tokens, the current
one included.  Training sequences are several windows long under exactly that mask, so a rolling cache
of W entries streams far beyond the training length.
"""
import argparse
import csv
import ctypes
import json
import math
import os
import re
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

HERE = Path(__file__).resolve().parent
CORPUS, MODEL, RUN = HERE / "corpus", HERE / "model", HERE / "run"
BOS, EOS = 1, 2


@dataclass
class Settings:
    # network
    dim: int = 256
    layers: int = 6
    hidden: int = 512
    heads: int = 8
    kv_heads: int = 2
    window: int = 128
    vocab: int = 3072
    eps: float = 1e-5
    theta: float = 10000.0
    # training
    length: int = 512           # tokens a sequence: four windows
    batch: int = 8              # sequences a step
    steps: int = 1800
    warmup: int = 30
    decay: int = 700            # the last steps, in which the learning rates fall to zero
    muon_lr: float = 0.02       # for the matrices
    adam_lr: float = 0.003      # for the embedding and the norms
    weight_decay: float = 0.1   # of the matrices, times their learning rate
    dropout: float = 0.1
    seed: int = 1
    eval_every: int = 50

    @property
    def head_dim(self):
        return self.dim // self.heads


# ------------------------------------------------------------------------------------------ tokenizer

# Words, numbers digit by digit and runs of other signs are merged only within themselves.  As no piece
# then crosses such a border, no merge can either, and the file needs no pre-tokenizer at inference.
WORDS = r"▁?\p{L}+|▁?\p{N}|▁?[^\p{L}\p{N}▁\n]+|▁|\n"

# The first line of a tale or a chapter: "12 Rapunzel", "HANS IN LUCK", "Chapter 5".
TITLE = re.compile(r"(?:\d+|Legend \d+) [A-Z].{2,60}|Chapter \d+|[IVX]+\. [A-Z' -]{4,}"
                   r"|(?!FIRST|SECOND|THIRD)[A-Z][A-Z' ,?-]{5,70}[A-Z?]")


def corpus(name):
    return (CORPUS / f"{name}.txt").read_text(encoding="utf-8")


def train_tokenizer(s):
    """A byte-fallback BPE in the style of Mistral 7B v0.1's."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    text = corpus("train")
    seen = sorted(c for c in set(text) if text.count(c) >= 20 and c not in " \n")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    learner.train_from_iterator(text.splitlines(), trainers.BpeTrainer(
        vocab_size=s.vocab - len(special), limit_alphabet=len(seen) + 1, initial_alphabet=seen + ["▁"],
        show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].get)
    vocab = {piece: i for i, piece in enumerate(special + pieces)}
    assert len(vocab) == s.vocab, len(vocab)

    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m) for m in learnt["merges"]], unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)])
    tokenizer.add_special_tokens(special[:3])
    MODEL.mkdir(exist_ok=True)
    tokenizer.save(str(MODEL / "tokenizer.json"))
    for name in ("train", "valid"):
        text = corpus(name)
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids[1:]) == text, f"{name} does not come back"
        print(f"{name}: {len(ids) - 1} tokens, {len(text.encode()) / (len(ids) - 1):.3f} bytes a token")


def load_tokenizer():
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def training_stream():
    """All tales, each as <s> text </s>, in one row."""
    tokenizer, tales = load_tokenizer(), [[]]
    for line in corpus("train").splitlines(keepends=True):
        if TITLE.fullmatch(line.rstrip("\n")) and tales[-1]:
            tales.append([])
        tales[-1].append(line)
    encoded = tokenizer.encode_batch(["".join(tale) for tale in tales])
    return torch.tensor([i for e in encoded for i in e.ids + [EOS]]), len(tales)


def valid_stream():
    return torch.tensor(load_tokenizer().encode(corpus("valid")).ids)


# -------------------------------------------------------------------------------------------- network

class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotary(s, length):
    frequency = s.theta ** (-torch.arange(0, s.head_dim, 2) / s.head_dim)
    angle = torch.arange(length)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """x: [batch, length, heads, head_dim]; the halves of a head are the pairs."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.dim, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.dim, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.dim, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.dim, bias=False)

    def forward(self, x, cos, sin):
        """Window by window: a window's queries see its keys and those of the window before."""
        s, (batch, length, _) = self.s, x.shape
        w, d, g = s.window, s.head_dim, s.heads // s.kv_heads
        n = length // w
        q = rotate(self.q_proj(x).view(batch, length, s.heads, d), cos, sin)
        k = rotate(self.k_proj(x).view(batch, length, s.kv_heads, d), cos, sin)
        v = self.v_proj(x).view(batch, length, s.kv_heads, d)

        def pairs(t):           # [batch, length, kv_heads, d] -> [batch * n, kv_heads, 2 * w, d]
            t = F.pad(t, (0, 0, 0, 0, w, 0)).view(batch, n + 1, w, s.kv_heads, d)
            return torch.cat((t[:, :-1], t[:, 1:]), dim=2).transpose(2, 3).flatten(0, 1)

        # A group's queries share their keys, so they are rows of one product.
        q = q.view(batch, n, w, s.kv_heads, g, d).permute(0, 1, 3, 4, 2, 5).reshape(batch * n, s.kv_heads, g * w, d)
        i, j = torch.arange(w).repeat(g)[:, None], torch.arange(2 * w) - w
        seen = (j <= i) & (j > i - w)                                       # w keys, the query's own included
        seen = seen & ((torch.arange(n) > 0)[:, None, None] | (j >= 0))     # nothing lies before the start
        bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf")).repeat(batch, 1, 1)[:, None]
        y = F.scaled_dot_product_attention(q, pairs(k), pairs(v), bias)
        y = y.view(batch, n, s.kv_heads, g, w, d).permute(0, 1, 4, 2, 3, 5).reshape(batch, length, s.heads * d)
        return self.o_proj(y)


class MLP(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.gate_proj = nn.Linear(s.dim, s.hidden, bias=False)
        self.up_proj = nn.Linear(s.dim, s.hidden, bias=False)
        self.down_proj = nn.Linear(s.hidden, s.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(s.dim, s.eps), Attention(s)
        self.post_attention_layernorm, self.mlp = RMSNorm(s.dim, s.eps), MLP(s)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x, cos, sin):
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Mistral(nn.Module):
    """The parameters' names are Hugging Face's, less their "model." in front."""

    def __init__(self, s):
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab, s.dim)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = RMSNorm(s.dim, s.eps)
        self.dropout = nn.Dropout(s.dropout)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, p in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(p)       # every layer begins as the identity
            elif name.endswith("_proj.weight"):
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def forward(self, ids, cos, sin):
        """The last norm's output; the logits are its product with the embedding."""
        x = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def loss(self, ids, targets, cos, sin):
        logits = self(ids, cos, sin) @ self.embed_tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def bits(model, ids):
    """Bits that the model needs for ids[1:], as one stream, each token seeing at most a window."""
    s, n = model.s, len(ids) - 1
    padded = F.pad(ids[:-1], (0, -n % s.window))
    was, _ = model.training, model.eval()
    hidden = model(padded[None], *rotary(s, len(padded)))[0, :n]
    model.train(was)
    nats = sum(F.cross_entropy(h @ model.embed_tokens.weight.T, t, reduction="sum").double().item()
               for h, t in zip(hidden.split(4096), ids[1:].split(4096)))
    return nats / math.log(2)


# ------------------------------------------------------------------------------------------- training

class Muon:
    """Momentum whose matrices are made orthogonal by Newton-Schulz steps (Jordan et al., 2024).

    Matrices of one shape are done as one batch."""

    def __init__(self, parameters, momentum=0.95):
        self.momentum, self.groups = momentum, {}
        for p in parameters:
            self.groups.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.state = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, lr, weight_decay):
        for (rows, columns), ps in self.groups.items():
            gradient = torch.stack([p.grad if p.shape[0] <= p.shape[1] else p.grad.T for p in ps])
            m = self.state[rows, columns].lerp_(gradient, 1 - self.momentum)
            x = gradient.lerp_(m, self.momentum)
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for a, b, c in ((3.4445, -4.7750, 2.0315),) * 5:
                y = x @ x.transpose(1, 2)
                x = a * x + torch.baddbmm(y, y, y, beta=b, alpha=c) @ x
            for p, update in zip(ps, x):
                tall = p.shape[0] > p.shape[1]
                p.mul_(1 - lr * weight_decay)
                p.sub_((update.T if tall else update) * (lr * max(1, p.shape[0] / p.shape[1]) ** 0.5))


def rate(s, step, decay_from):
    """Up, level, and down to zero."""
    return min(1, (step + 1) / s.warmup, max(0.0, (decay_from + s.decay - step) / s.decay))


def keep_memory():
    """Lets glibc keep freed memory: mapping it afresh for every tensor took half of the time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)              # M_MMAP_MAX: nothing by mmap
        mallopt(-1, 2**31 - 1)      # M_TRIM_THRESHOLD: nothing back to the system
    except (AttributeError, OSError, TypeError):
        pass                        # another C library


def batches(s, stream, start):
    """Batches from step `start` on.  Every epoch cuts the stream at other places, in another order."""
    step, epoch = 0, 0
    while True:
        random = torch.Generator().manual_seed(s.seed * 1000 + epoch)
        offset = torch.randint(s.length, (1,), generator=random).item()
        rows = (len(stream) - 1 - offset) // s.length
        order = torch.randperm(rows, generator=random) * s.length + offset
        for i in range(0, rows - s.batch + 1, s.batch):
            if step >= start:
                yield torch.stack([stream[o:o + s.length + 1] for o in order[i:i + s.batch]]), epoch + i / rows
            step += 1
        epoch += 1


def train(s, resume):
    keep_memory()
    torch.manual_seed(s.seed)
    RUN.mkdir(exist_ok=True)
    stream, tales = training_stream()
    valid = valid_stream()
    valid_bytes = len(corpus("valid").encode())
    model = Mistral(s)
    matrices = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
    others = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0, fused=True)
    step, seconds, decay_from, curve = 0, 0.0, s.steps - s.decay, []
    if resume:
        saved = torch.load(RUN / "checkpoint.pt", weights_only=True)
        step, seconds, decay_from, curve = (saved[k] for k in ("step", "seconds", "decay_from", "curve"))
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        muon.state = saved["muon"]
        torch.manual_seed(s.seed + step)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(stream)} tokens in {tales} tales", flush=True)

    cos, sin = rotary(s, s.length)
    began, saved_at, losses, source = time.time() - seconds, time.time(), [], batches(s, stream, step)
    while step < decay_from + s.decay:
        if (RUN / "decay_now").exists():
            (RUN / "decay_now").unlink()
            decay_from = min(decay_from, step)
        rows, epoch = next(source)
        loss = model.loss(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), cos, sin)
        loss.backward()
        now = rate(s, step, decay_from)
        muon.step(s.muon_lr * now, s.weight_decay)
        adam.param_groups[0]["lr"] = s.adam_lr * now
        adam.step()
        model.zero_grad()
        losses.append(loss.item())
        step += 1
        last = step == decay_from + s.decay
        if step % s.eval_every == 0 or last:
            curve.append((step, round(epoch, 3), round((time.time() - began) / 60, 2),
                          round(sum(losses) / len(losses), 4), round(bits(model, valid) / valid_bytes, 4)))
            losses = []
            print("step %5d  epoch %6.3f  minute %6.2f  loss %.4f  valid %.4f" % curve[-1], flush=True)
        if time.time() - saved_at > 240 or last:
            saved_at = time.time()
            torch.save({"model": model.state_dict(), "muon": muon.state, "adam": adam.state_dict(), "step": step,
                        "seconds": time.time() - began, "decay_from": decay_from, "curve": curve,
                        "settings": vars(s)}, RUN / "checkpoint.tmp")
            os.replace(RUN / "checkpoint.tmp", RUN / "checkpoint.pt")
            with open(RUN / "curve.csv", "w", newline="") as f:
                csv.writer(f).writerows([("step", "epoch", "minutes", "train_loss", "valid_bits_per_byte"), *curve])


# --------------------------------------------------------------------------------------------- export

GROUP = 32


def quantise(w):
    """8-bit numbers and, for every 32 of them along the input, one scale."""
    groups = w.float().unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / 127).half()
    q = (groups / scale.float().clamp_min(1e-12)[..., None]).round().clamp(-127, 127)
    return q.to(torch.int8).flatten(1), scale


CONFIG = {"dim": "hidden_size", "layers": "num_hidden_layers", "hidden": "intermediate_size",
          "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "window": "sliding_window",
          "vocab": "vocab_size", "eps": "rms_norm_eps", "theta": "rope_theta"}


def config(s):
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "torch_dtype": "float32",
            **{theirs: getattr(s, ours) for ours, theirs in CONFIG.items()}, "head_dim": s.head_dim,
            "max_position_embeddings": 32768, "hidden_act": "silu", "tie_word_embeddings": True,
            "bos_token_id": BOS, "eos_token_id": EOS,
            "quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": [],
                                    "quantization_status": "compressed", "config_groups": {"group_0": {
                                        "targets": ["Linear", "Embedding"], "weights": weights}}}}


def export():
    saved = torch.load(RUN / "checkpoint.pt", weights_only=True)
    s, tensors = Settings(**saved["settings"]), {}
    for name, w in saved["model"].items():
        if w.dim() == 1:
            tensors[f"model.{name}"] = w
        else:
            tensors[f"model.{name}"], tensors[f"model.{name}_scale"] = quantise(w)
    MODEL.mkdir(exist_ok=True)
    save_file(tensors, MODEL / "model.safetensors", {"format": "pt"})
    shutil.copy(RUN / "curve.csv", HERE)
    (MODEL / "config.json").write_text(json.dumps(config(s), indent=2) + "\n")
    names = ("model.safetensors", "tokenizer.json", "config.json")
    print(f"exported step {saved['step']}: {sum((MODEL / n).stat().st_size for n in names)} bytes")


def load_exported():
    c = json.loads((MODEL / "config.json").read_text())
    s = Settings(**{ours: c[theirs] for ours, theirs in CONFIG.items()})
    tensors, state = load_file(MODEL / "model.safetensors"), {}
    for name, w in tensors.items():
        if not name.endswith("_scale"):
            if w.dtype == torch.int8:
                w = (w.float().unflatten(1, (-1, GROUP)) * tensors[f"{name}_scale"].float()[..., None]).flatten(1)
            state[name.removeprefix("model.")] = w
    model = Mistral(s)
    model.load_state_dict(state)
    return model.eval()


def evaluate():
    """Bits per byte of valid.txt: of the exported file and, where there is one, of the checkpoint."""
    ids = valid_stream()
    size = len(corpus("valid").encode())
    model = load_exported()
    print(f"8-bit file: {bits(model, ids) / size:.4f} bits per byte ({len(ids) - 1} tokens, {size} bytes)")
    if (RUN / "checkpoint.pt").exists():
        model.load_state_dict(torch.load(RUN / "checkpoint.pt", weights_only=True)["model"])
        print(f"float checkpoint: {bits(model, ids) / size:.4f} bits per byte")


@torch.no_grad()
def sample(prompt, tokens, temperature, top_p, seed):
    """Plain and slow: the whole text goes through the network for every token."""
    model, tokenizer, random = load_exported(), load_tokenizer(), torch.Generator().manual_seed(seed)
    ids, w = tokenizer.encode(prompt).ids, model.s.window
    while len(ids) < tokens and ids[-1] != EOS:
        padded = F.pad(torch.tensor(ids), (0, -len(ids) % w))
        hidden = model(padded[None], *rotary(model.s, len(padded)))[0, len(ids) - 1]
        p, order = (hidden @ model.embed_tokens.weight.T / temperature).softmax(-1).sort(descending=True)
        p = p.masked_fill(p.cumsum(0) - p >= top_p, 0)
        ids.append(order[torch.multinomial(p, 1, generator=random)].item())
    print(tokenizer.decode(ids))


def plot():
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    stream, _ = training_stream()
    tokens_a_byte = len(stream) / len(corpus("train").encode())
    with open(HERE / "curve.csv") as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    plt.rcParams["svg.hashsalt"] = "curve"
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    epoch = [row["epoch"] for row in rows]
    left.plot(epoch, [row["valid_bits_per_byte"] for row in rows], color="tab:blue", label="valid.txt")
    left.plot(epoch, [row["train_loss"] / math.log(2) * tokens_a_byte for row in rows], color="tab:gray", lw=0.8,
              label="train.txt, with dropout")
    left.set(xlabel="epoch", ylabel="bits per byte", ylim=(1.2, 2.4))
    left.grid(alpha=0.3)
    left.legend()
    figure.savefig(HERE / "curve.svg", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = ("tokenizer", "train", "export", "evaluate", "plot", "sample")
    parser.add_argument("command", nargs="?", choices=("all", *commands), default="all")
    parser.add_argument("--resume", action="store_true", help="go on from run/checkpoint.pt")
    parser.add_argument("--run", type=Path, default=HERE / "run", help="folder of the checkpoint")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    sampling = parser.add_argument_group("sample")
    sampling.add_argument("--prompt", default="Once upon a time")
    sampling.add_argument("--tokens", type=int, default=300)
    sampling.add_argument("--temperature", type=float, default=0.7)
    sampling.add_argument("--top-p", type=float, default=0.9)
    sampling.add_argument("--sample-seed", type=int, default=1)
    a = parser.parse_args()

    global RUN
    RUN = a.run
    settings = Settings(**{field.name: getattr(a, field.name) for field in fields(Settings)})
    run = {"tokenizer": lambda: train_tokenizer(settings), "train": lambda: train(settings, a.resume),
           "export": export, "evaluate": evaluate, "plot": plot,
           "sample": lambda: sample(a.prompt, a.tokens, a.temperature, a.top_p, a.sample_seed)}
    for command in commands if a.command == "all" else (a.command,):
        run[command]()


if __name__ == "__main__":
    main()

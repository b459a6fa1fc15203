"""Runs this project and its peers in turns on the same files, and prints a Markdown table.

    run.py --models FOLDER [--formats q8_0,q4_k] [--rounds 5] [--depth 0] [--results FILE]
    run.py --models FOLDER --check [--beside bf16]

A round runs every engine once, in a new process; the next round takes them in the opposite order. A
ratio is taken within a round, where the machine was in the same mood. Rounds are appended to --results,
so that a table can grow over several calls. FOLDER holds FORMAT.gguf for each format, and q8_0.ct2 for CTranslate2.

--check compares logits instead, with ours of the same format: they show that all engines compute the same
model. With --beside they are compared with ours of another format, which shows what rounding costs.
"""

import argparse
import array
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORMATS = ["f32", "f16", "bf16", "bf16xbf16", "w8a8", "q8_0", "q4_0", "q4_k", "w4a8"]
# Formats of ours that no GGUF file has: what we round while we read, what `mistral quantize` wrote, and what the peers
# run beside them.
MADE_OF = {"bf16xbf16": "bf16.gguf", "w8a8": "bf16.gguf"}
QUANTIZED = ["w4a8"]
BESIDE = {"bf16xbf16": "bf16", "w8a8": "q8_0", "w4a8": "q4_k"}
OURS = "mistral"
# Of llama.cpp, the settings that make a difference.
LLAMA = {
    "llama.cpp": [],
    "llama.cpp, flash attention": ["--flash-attention"],
    "llama.cpp, not repacked": ["--no-repack"],
}
CTRANSLATE2 = "CTranslate2"
ENGINES = [OURS, *LLAMA, "candle", CTRANSLATE2]


def command(options, engine):
    """The program of an engine, up to the options that all of them share."""
    if engine == OURS:
        return [options.mistral, "bench", "--json"]
    if engine == "candle":
        return [options.candle]
    if engine == CTRANSLATE2:
        return [sys.executable, HERE / "peer_ctranslate2.py", "bench"]
    return [options.llama_cpp, "bench", *LLAMA[engine]]


def bench(options, engine, format, **settings):
    """One run in a process of its own: what it prints, read."""
    settings = {"model": model(options, engine, format), "threads": options.threads, **settings}
    if engine == OURS and format in MADE_OF:
        settings["weights"] = format
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command(options, engine) + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{engine} on {format} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def model(options, engine, format):
    """What an engine reads."""
    if engine == OURS:
        return options.models / (format if format in QUANTIZED else MADE_OF.get(format, f"{format}.gguf"))
    return options.models / f"{BESIDE.get(format, format)}.{'ct2' if engine == CTRANSLATE2 else 'gguf'}"


def engines_for(options, format):
    """Dense weights are never repacked: there is nothing to leave out. CTranslate2 has 8 bits, and no history."""
    dense = format in ("f32", "f16", "bf16", "bf16xbf16")
    unfit = lambda engine: engine == CTRANSLATE2 and (format not in ("w8a8", "q8_0") or options.depth > 0)
    return [e for e in options.engines if not (dense and e.endswith("not repacked")) and not unfit(e)]


def measure(options):
    results = read(options.results)
    for format in options.formats:
        for _ in range(options.rounds):
            same = [r for r in results if (r["format"], r["depth"]) == (format, options.depth)]
            round = 1 + max((r["round"] for r in same), default=0)
            engines = engines_for(options, format)
            for engine in engines if round % 2 else reversed(engines):
                names = ["prompt", "gen", "repeat"] + (["depth"] if options.depth else [])
                settings = {name: getattr(options, name) for name in names}
                report = bench(options, engine, format, **settings)
                result = {"format": format, "depth": options.depth, "round": round, "engine": engine}
                for phase in ("prefill", "decode"):
                    result[phase] = report[f"{phase}_tokens_per_second"]
                results.append(result)
                print(json.dumps(result), file=sys.stderr)
                if options.results:
                    with options.results.open("a") as file:
                        print(json.dumps(result), file=file)
    print(table(results))


def read(path):
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(results):
    """A row for each depth, format and engine."""
    lines = [
        "| weights | behind | engine | prefill, tok/s | ours / theirs | decode, tok/s | ours / theirs | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = {(r["depth"], r["format"], r["engine"], r["round"]): r for r in results}
    groups = sorted({(r["depth"], FORMATS.index(r["format"]), ENGINES.index(r["engine"])) for r in results})
    for depth, format, engine in groups:
        format, engine = FORMATS[format], ENGINES[engine]
        rounds = [key[3] for key in runs if key[:3] == (depth, format, engine)]
        cells = [format, str(depth), engine]
        for phase in ("prefill", "decode"):
            speeds = [runs[depth, format, engine, round][phase] for round in rounds]
            pairs = [(runs.get((depth, format, OURS, round)), speed) for round, speed in zip(rounds, speeds)]
            ratios = [ours[phase] / speed for ours, speed in pairs if ours]
            cells.append(f"{statistics.median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})")
            cells.append("" if engine == OURS or not ratios else f"{statistics.median(ratios):.2f}")
        lines.append(f"| {' | '.join(cells)} | {len(rounds)} |")
    return "\n".join(lines)


def check(options):
    """Logits of every engine after a prompt and after each of some decoded tokens, beside ours."""
    logits = lambda format: our_logits(options, format, prompt, generated)
    prompt, generated = 48, 16
    print("| weights | engine | same likeliest token | difference of the logits, relative (RMS) |\n|---|---|---|---|")
    for format in options.formats:
        ours = logits(options.beside or format)
        for engine in engines_for(options, format):
            if engine != OURS:
                with tempfile.NamedTemporaryFile() as file:
                    bench(options, engine, format, prompt=prompt, gen=generated, repeat=1, logits=file.name)
                    theirs = floats(file.read())
            elif options.beside:
                theirs = logits(format)
            else:
                continue
            size = len(theirs) // (generated + 1)
            rows = range(0, len(theirs), size)
            same = sum(likeliest(ours[at : at + size]) == likeliest(theirs[at : at + size]) for at in rows)
            error = math.dist(ours, theirs) / math.hypot(*ours)
            print(f"| {format} | {engine} | {same} of {len(rows)} | {error:.1e} |", flush=True)


def our_logits(options, format, prompt, generated):
    """Those at the end of the prompt and behind it."""
    ids = token_ids(prompt) + token_ids(generated)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.safetensors"
        words = ["--model", model(options, OURS, format), "--tokens", ",".join(map(str, ids)), "--out", out]
        words += ["--weights", format] if format in MADE_OF else []
        subprocess.run([options.mistral, "logits", *words], check=True, stderr=subprocess.DEVNULL)
        file = out.read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")
    all_logits = floats(file[header:])
    return all_logits[(prompt - 1) * (len(all_logits) // len(ids)) :]


def token_ids(n, vocab_size=32000):
    """Those that all the benches use."""
    return [(i * 0x9E3779B97F4A7C15 % 2**64 >> 33) % 2**32 % vocab_size for i in range(n)]


def floats(raw):
    numbers = array.array("f", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def likeliest(logits):
    return max(range(len(logits)), key=logits.__getitem__)


def comma_separated(allowed):
    def parse(text):
        names = [name.strip() for name in text.split(",")]
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {unknown}; there are {allowed}")
        return names

    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--formats", type=comma_separated(FORMATS), default=FORMATS)
    parser.add_argument("--without", action="append", default=[], choices=ENGINES[1:], help="an engine to leave out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--results", type=Path, help="measurements so far, a line each; new ones are appended")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--beside", choices=FORMATS, help="the format of ours that --check compares with")
    parser.add_argument("--mistral", type=Path, default=HERE.parent.parent / "target/release/mistral")
    parser.add_argument("--candle", type=Path, default=HERE / "target/release/peer-candle")
    parser.add_argument("--llama-cpp", type=Path, default=HERE / "target/release/peer-llama-cpp")
    options = parser.parse_args()
    options.engines = [engine for engine in ENGINES if engine not in options.without]
    check(options) if options.check else measure(options)


if __name__ == "__main__":
    main()

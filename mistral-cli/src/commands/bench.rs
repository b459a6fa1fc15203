//! `mistral bench`: speed and memory beside the machine's own limits.

mod subject;

use std::fmt::{self, Display};
use std::time::Instant;

use indicatif::BinaryBytes;
use mistral_model::{
    Batch, Config, ModelError, Session, SimdLevel, Transformer, WeightFormat, Window, ceilings,
};
use serde::Serialize;

use self::subject::Subject;
use super::{print, print_json};
use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::memory;
use crate::progress::Progress;

/// Bytes that are read to find the limit of the memory: several times any cache.
const READ_BYTES: usize = 512 << 20;

/// The least, the middle and the most of some measurements.
#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number, the mean of the two in the middle.
        let median = f64::midpoint(at(last / 2), at(values.len() / 2));
        Self { min: at(0), median, max: at(last) }
    }

    fn times(self, factor: f64) -> Self {
        Self { min: self.min * factor, median: self.median * factor, max: self.max * factor }
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2}-{:.2})", self.median, self.min, self.max))
    }
}

/// What the machine can do at most.
#[derive(Debug, Clone, Copy, Serialize)]
struct Limits {
    read_gb_per_second: Option<f64>,
    f32_gflops: f64,
    bf16_gflops: f64,
    int8_gops: f64,
    int16_gops: f64,
}

impl Limits {
    fn measure() -> Self {
        Self {
            read_gb_per_second: ceilings::read_gb_per_second(READ_BYTES),
            f32_gflops: ceilings::f32_gflops(),
            bf16_gflops: ceilings::bf16_gflops(),
            int8_gops: ceilings::int8_gops(),
            int16_gops: ceilings::int16_gops(),
        }
    }
}

/// One format, measured.
struct Measured {
    weights: WeightFormat,
    load_seconds: f64,
    weight_bytes: usize,
    kv_bytes: usize,
    prefill: Spread,
    decode: Spread,
    /// Sequences that were decoded together.
    batch: usize,
    /// Bytes that decoding one token of each sequence reads.
    decode_bytes: f64,
    /// Multiplications and additions of a prompt, for each of its tokens.
    prefill_ops: f64,
    peak_rss_bytes: Option<u64>,
}

/// The JSON of one format.
#[derive(Serialize)]
struct Report<'a> {
    shape: &'a str,
    layers: usize,
    weights: &'static str,
    kv_dtype: &'a str,
    /// `null`: no window.
    window: Option<usize>,
    /// Of each layer, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_windows: Option<Vec<Option<usize>>>,
    prompt: usize,
    #[serde(rename = "gen")]
    generated: usize,
    depth: usize,
    batch: usize,
    chunk: usize,
    mmap: bool,
    simd: &'static str,
    threads: usize,
    repeat: usize,
    prefill_tokens_per_second: f64,
    prefill_tokens_per_second_min: f64,
    prefill_tokens_per_second_max: f64,
    decode_tokens_per_second: f64,
    decode_tokens_per_second_min: f64,
    decode_tokens_per_second_max: f64,
    decode_gb_per_second: f64,
    decode_gb_per_second_min: f64,
    decode_gb_per_second_max: f64,
    prefill_gops_per_second: f64,
    prefill_gops_per_second_min: f64,
    prefill_gops_per_second_max: f64,
    #[serde(flatten)]
    limits: Limits,
    weight_bytes: usize,
    kv_bytes: usize,
    peak_rss_bytes: Option<u64>,
    load_seconds: f64,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    if args.json && args.weights.len() > 1 {
        return Err(Failure::SeveralFormats { found: args.weights.len() });
    }
    // Whatever can be wrong is found before anything is measured.
    let subjects = Subject::all(args)?;
    for subject in &subjects {
        subject.check(args)?;
    }
    let limits = Limits::measure();
    if !args.json {
        print(&limits.to_string())?;
        print(&format!("{}\n", Measured::TITLE))?;
    }
    for subject in subjects {
        // The peak is that of this subject: not of the limits, nor of the subject before.
        memory::reset_peak();
        let start = Instant::now();
        let model = subject.load()?;
        let load_seconds = start.elapsed().as_secs_f64();
        let measured = measure(args, &model, subject.format(), load_seconds)?;
        if args.json {
            print_json(&report(args, model.config(), &measured, limits))?;
        } else {
            print(&measured.line(limits))?;
        }
    }
    Ok(())
}

/// Token ids without a pattern.
fn tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab_size as u32)
        .collect()
}

fn measure(
    args: &BenchArgs,
    model: &Transformer,
    weights: WeightFormat,
    load_seconds: f64,
) -> Result<Measured, Failure> {
    let config = model.config();
    let (prompt, batch) = (args.prompt.get(), args.batch.get());
    let [options, other] = subject::sessions(args);
    let text = tokens(args.depth + prompt, config.vocab_size);
    let (before, prompt_tokens) = text.split_at(args.depth);
    let mut first = Session::new(model, options)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let rounds = args.repeat.get();
    let progress = Progress::reading(rounds * (prompt + args.depth), prompt);
    let mut others = Vec::new();
    for _ in 1..batch {
        let mut session = Session::new(model, other)?;
        session.prefill(&text)?;
        others.push(session);
    }
    let mut together = Batch::new(model, batch)?;
    for round in 0..rounds {
        first.reset()?;
        if !before.is_empty() {
            first.prefill(before)?;
        }
        let start = Instant::now();
        first.prefill(prompt_tokens)?;
        prefill.push(prompt as f64 / start.elapsed().as_secs_f64());
        progress.reached(((round + 1) * (prompt + args.depth)) as u64);
        for token in tokens(args.generated.get(), config.vocab_size) {
            let start = Instant::now();
            if others.is_empty() {
                first.decode(token)?;
            } else {
                let mut members: Vec<_> = std::iter::once(&mut first).chain(&mut others).collect();
                together.decode(&mut members, &vec![token; batch])?;
            }
            decode.push(batch as f64 / start.elapsed().as_secs_f64());
        }
    }
    let kv_bytes = first.cache_bytes() + others.iter().map(Session::cache_bytes).sum::<usize>();
    let position = args.depth + prompt + args.generated.get() / 2;
    let kv_read = batch * config.cache_bytes(args.kv_dtype, position).map_err(ModelError::from)?;
    Ok(Measured {
        weights,
        load_seconds,
        weight_bytes: model.bytes(),
        kv_bytes,
        batch,
        prefill: Spread::of(prefill),
        decode: Spread::of(decode),
        decode_bytes: (model.bytes_read() + kv_read) as f64,
        prefill_ops: prefill_ops(config, args.depth, prompt),
        peak_rss_bytes: memory::peak(),
    })
}

/// Multiplications and additions of a prompt, for each of its tokens: those with the weights of the
/// layers, those of attention over visible pairs, and the logits of the last token. In the last
/// layer, what comes after attention is done for the last token alone.
fn prefill_ops(config: &Config, depth: usize, prompt: usize) -> f64 {
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let qkv = config.dim * (q + 2 * kv);
    let after_attention = config.dim * q + 3 * config.dim * config.hidden_dim;
    let pairs_of = |layer| {
        let window = config.window_of(layer);
        (depth..depth + prompt).map(|position| window.visible(position).len()).sum::<usize>()
    };
    let pairs: usize = (0..config.n_layers).map(pairs_of).sum();
    let weights = config.n_layers * qkv * prompt
        + ((config.n_layers - 1) * prompt + 1) * after_attention
        + config.vocab_size * config.dim;
    (2 * weights + 4 * q * pairs) as f64 / prompt as f64
}

impl Measured {
    const TITLE: &str = "\
weights    prefill tok/s (min-max)   Gop/s  share   decode tok/s (min-max)    GB/s  share     weights       cache        peak";

    /// The speed of prefill in billions of operations a second.
    fn gops(&self) -> Spread {
        self.prefill.times(self.prefill_ops / 1e9)
    }

    /// The speed of decode in GB a second: the batch reads the weights once.
    fn gb_per_second(&self) -> Spread {
        self.decode.times(self.decode_bytes / self.batch as f64 / 1e9)
    }

    fn line(&self, limits: Limits) -> String {
        let arithmetic = match self.weights {
            WeightFormat::BF16xBF16 => limits.bf16_gflops,
            WeightFormat::W8A8 | WeightFormat::W4A8 | WeightFormat::Q4K | WeightFormat::Q4_0 => {
                limits.int8_gops
            }
            format if format.block() > 1 => limits.int16_gops,
            _ => limits.f32_gflops,
        };
        let (gops, gb) = (self.gops().median, self.gb_per_second().median);
        let read = limits.read_gb_per_second.unwrap_or(f64::NAN);
        let peak = self.peak_rss_bytes.map_or("unknown".to_owned(), |b| BinaryBytes(b).to_string());
        format!(
            "{:<9} {:>24} {:>7.0} {:>5.0}% {:>24} {:>7.1} {:>5.0}% {:>11} {:>11} {:>11}\n",
            self.weights,
            self.prefill,
            gops,
            100.0 * gops / arithmetic,
            self.decode,
            gb,
            100.0 * gb / read,
            BinaryBytes(self.weight_bytes as u64).to_string(),
            BinaryBytes(self.kv_bytes as u64).to_string(),
            peak,
        )
    }
}

impl Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.read_gb_per_second.map_or("unknown".to_owned(), |gb| format!("{gb:.1}"));
        writeln!(
            f,
            "limits: read {read} GB/s, f32 {:.0} Gflop/s, bf16 {:.0} Gflop/s, 8-bit inputs {:.0} \
             Gop/s, 16-bit inputs {:.0} Gop/s",
            self.f32_gflops, self.bf16_gflops, self.int8_gops, self.int16_gops
        )
    }
}

fn report<'a>(
    args: &'a BenchArgs,
    config: &Config,
    measured: &'a Measured,
    limits: Limits,
) -> Report<'a> {
    let (gops, gb) = (measured.gops(), measured.gb_per_second());
    let (each, size) = (&config.layer_windows, |window: &Window| window.size().map(usize::from));
    Report {
        shape: args.model.as_ref().map_or(args.shape.as_str(), |path| path.to_str().unwrap_or("")),
        layers: config.n_layers,
        weights: measured.weights.name(),
        kv_dtype: args.kv_dtype.name(),
        window: size(&config.window),
        layer_windows: (!each.is_empty()).then(|| each.iter().map(size).collect()),
        prompt: args.prompt.get(),
        generated: args.generated.get(),
        depth: args.depth,
        batch: args.batch.get(),
        chunk: args.chunk.get(),
        mmap: args.mmap,
        simd: SimdLevel::detect().name(),
        threads: rayon::current_num_threads(),
        repeat: args.repeat.get(),
        prefill_tokens_per_second: measured.prefill.median,
        prefill_tokens_per_second_min: measured.prefill.min,
        prefill_tokens_per_second_max: measured.prefill.max,
        decode_tokens_per_second: measured.decode.median,
        decode_tokens_per_second_min: measured.decode.min,
        decode_tokens_per_second_max: measured.decode.max,
        decode_gb_per_second: gb.median,
        decode_gb_per_second_min: gb.min,
        decode_gb_per_second_max: gb.max,
        prefill_gops_per_second: gops.median,
        prefill_gops_per_second_min: gops.min,
        prefill_gops_per_second_max: gops.max,
        limits,
        weight_bytes: measured.weight_bytes,
        kv_bytes: measured.kv_bytes,
        peak_rss_bytes: measured.peak_rss_bytes,
        load_seconds: measured.load_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        for (values, median) in
            [(vec![4.0], 4.0), (vec![9.0, 1.0], 5.0), (vec![3.0, 8.0, 1.0], 3.0)]
        {
            assert_eq!(Spread::of(values).median, median);
        }
    }
}

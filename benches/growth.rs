//! How time grows with a text: of one token by its position, of a prompt by its length.
//!
//! ```text
//! $ cargo bench -p benches --bench growth             # prints medians
//! $ cargo bench -p benches --bench growth -- docs     # and draws docs/token_time.svg, docs/prompt_time.svg
//! ```
//!
//! Two subjects, each with its window and without one: a layer of Mistral 7B's attention with its
//! cache (32 query heads over 8 key/value heads of 128, f16), and the demo model as a whole.
#![allow(missing_docs, clippy::unwrap_used)] // a bench may panic

use std::path::Path;
use std::time::{Duration, Instant};

use benches::chart::{Line, Panel, draw};
use benches::numbers;
use mistral_attention::half::f16;
use mistral_attention::ndarray::{Array3, Axis, Slice};
use mistral_attention::{Attention, AttentionConfig, Scratch, Window};
use mistral_kvcache::{CacheConfig, RollingKvCache, SequenceId};
use mistral_model::{Checkpoint, OpenOptions, Session, SessionOptions, Transformer};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
const CHUNK: usize = 512;
/// Runs whose median is taken, each with a fresh cache.
const PASSES: usize = 3;
/// Tokens in a row at each position; their median is the run's figure.
const TOKENS: usize = 15;

/// What takes a text in, one chunk at a time.
trait Subject {
    /// A prompt's next tokens.
    fn prompt(&mut self, tokens: usize);
    /// As fast as possible to a later position, where that differs from a prompt.
    fn advance(&mut self, tokens: usize) {
        self.prompt(tokens);
    }
    /// One token, and how long it takes.
    fn token(&mut self) -> Duration {
        let start = Instant::now();
        self.prompt(1);
        start.elapsed()
    }
}

/// Attention and cache of some layers of 7B shape, without the rest of the layers.
struct Layers {
    attention: Attention,
    cache: RollingKvCache<f16>,
    sequence: SequenceId,
    qkv: [Array3<f32>; 3],
    out: Array3<f32>,
    scratch: Scratch,
}

impl Layers {
    fn new(layers: usize, window: Window, longest: usize) -> Self {
        let config = CacheConfig::new(layers, 8, 128).with_max_chunk(CHUNK);
        let config = match window.size() {
            Some(window) => config.with_window(window.get()),
            None => config.with_context_len(longest),
        };
        let mut cache = RollingKvCache::new(config).unwrap();
        let sequence = cache.add_sequence().unwrap();
        let attention = AttentionConfig::new(32, 8, 128).with_window(window);
        let array = |heads, seed| Array3::from_shape_simple_fn((CHUNK, heads, 128), numbers(seed));
        Self {
            attention: Attention::new(attention).unwrap(),
            cache,
            sequence,
            qkv: [array(32, 1), array(8, 2), array(8, 3)],
            out: Array3::zeros((CHUNK, 32, 128)),
            scratch: Scratch::default(),
        }
    }

    fn pass(&mut self, tokens: usize, attend: bool) {
        let first = Slice::from(..tokens);
        let [q, k, v] = self.qkv.each_ref().map(|array| array.slice_axis(Axis(0), first));
        for layer in 0..self.cache.config().n_layers() {
            let step = self.cache.stage(self.sequence, layer, k, v).unwrap();
            if attend {
                let kv = step.kv().unwrap();
                let call = self.attention.call(q, &kv).scratch(&self.scratch);
                call.run(self.out.slice_axis_mut(Axis(0), first)).unwrap();
            }
            step.commit();
        }
    }
}

impl Subject for Layers {
    fn prompt(&mut self, tokens: usize) {
        self.pass(tokens, true);
    }

    fn advance(&mut self, tokens: usize) {
        self.pass(tokens, false);
    }

    /// The mean over the layers: together they are larger than the processor's own memory, as a
    /// model's are.
    fn token(&mut self) -> Duration {
        let start = Instant::now();
        self.prompt(1);
        start.elapsed() / self.cache.config().n_layers() as u32
    }
}

impl Subject for Session<&Transformer> {
    fn prompt(&mut self, tokens: usize) {
        let vocab_size = self.model().config().vocab_size;
        let ids: Vec<u32> = (0..tokens).map(|i| (7 * i % vocab_size) as u32).collect();
        self.prefill(&ids).unwrap();
    }
}

/// Milliseconds of one token at each of the positions.
fn token_times<S: Subject>(new: impl Fn() -> S, positions: &[usize]) -> Vec<f64> {
    let pass = |_| {
        let (mut subject, mut position) = (new(), 0);
        let at = |&wanted: &usize| {
            while position < wanted {
                let tokens = CHUNK.min(wanted - position);
                subject.advance(tokens);
                position += tokens;
            }
            position += TOKENS;
            median((0..TOKENS).map(|_| subject.token().as_secs_f64() * 1e3).collect())
        };
        positions.iter().map(at).collect()
    };
    medians((0..PASSES).map(pass).collect())
}

/// Seconds from the start of a prompt to each of the lengths.
fn prompt_times<S: Subject>(new: impl Fn() -> S, lengths: &[usize]) -> Vec<f64> {
    let pass = |_| {
        let (mut subject, mut length, start) = (new(), 0, Instant::now());
        let to = |&wanted: &usize| {
            while length < wanted {
                let tokens = CHUNK.min(wanted - length);
                subject.prompt(tokens);
                length += tokens;
            }
            start.elapsed().as_secs_f64()
        };
        lengths.iter().map(to).collect()
    };
    medians((0..PASSES).map(pass).collect())
}

/// Of each column.
fn medians(rows: Vec<Vec<f64>>) -> Vec<f64> {
    (0..rows[0].len()).map(|column| median(rows.iter().map(|row| row[column]).collect())).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `count` equal steps up to `last`.
fn steps(last: usize, count: usize) -> Vec<usize> {
    (1..=count).map(|step| last * step / count).collect()
}

fn line(name: &str, at: &[usize], values: Vec<f64>) -> Line {
    print!("{name:>28}");
    values.iter().for_each(|value| print!(" {value:>8.3}"));
    println!();
    let points = at.iter().map(|&x| x as f64).zip(values).collect();
    Line { name: name.into(), points }
}

fn panel(
    title: &str,
    at: &[usize],
    lines: impl IntoIterator<Item = (&'static str, Vec<f64>)>,
) -> Panel {
    print!("{title:>28}");
    at.iter().for_each(|at| print!(" {at:>8}"));
    println!();
    let lines = lines.into_iter().map(|(name, values)| line(name, at, values)).collect();
    Panel { title: title.into(), lines }
}

fn main() {
    // Cargo runs benches in their own folder; the path is meant from the workspace's.
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.map(|folder| workspace.join(folder));
    // Minutes of measuring come before the first chart.
    assert!(folder.as_ref().is_none_or(|folder| folder.is_dir()), "{folder:?} is no folder");
    let open = |window| {
        let options = OpenOptions::new().window(window);
        Checkpoint::open_with(DEMO, options).unwrap().load().unwrap()
    };
    let (long, short) = (32768, 16384);
    let window = Window::last(4096).unwrap();
    let (rolling, full) = (open(Window::last(128).unwrap()), open(Window::Full));
    let session = |model| move || Session::new(model, SessionOptions::default()).unwrap();

    let (at, demo_at) = (steps(long, 32), steps(short, 32));
    let token_panels = [
        panel(
            "a token, attention of 7B, ms",
            &at,
            [
                ("window 4096", token_times(|| Layers::new(4, window, long + CHUNK), &at)),
                ("no window", token_times(|| Layers::new(4, Window::Full, 2 * long), &at)),
            ],
        ),
        panel(
            "a token, demo model, ms",
            &demo_at,
            [
                ("window 128", token_times(session(&rolling), &demo_at)),
                ("no window", token_times(session(&full), &demo_at)),
            ],
        ),
    ];
    let prompt_panels = [
        panel(
            "a prompt, attention of 7B, s",
            &at,
            [
                ("window 4096", prompt_times(|| Layers::new(1, window, long), &at)),
                ("no window", prompt_times(|| Layers::new(1, Window::Full, long), &at)),
            ],
        ),
        panel(
            "a prompt, demo model, s",
            &demo_at,
            [
                ("window 128", prompt_times(session(&rolling), &demo_at)),
                ("no window", prompt_times(session(&full), &demo_at)),
            ],
        ),
    ];
    if let Some(folder) = folder {
        draw(&folder.join("token_time.svg"), "position", &token_panels).unwrap();
        draw(&folder.join("prompt_time.svg"), "tokens in the prompt", &prompt_panels).unwrap();
    }
}

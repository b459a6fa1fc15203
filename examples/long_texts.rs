//! What to keep of a long text: everything, a window, a window and sinks, or heavy hitters.
//!
//! The table of `docs/long_texts.md`, for 100 windows of text.
//!
//! ```text
//! $ cargo run --release -p examples --example long_texts
//! ```
//!
//! First the demo model, which was trained with its window; then the same with an adapter that leans on
//! the first token, as models do that were trained on whole texts.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use examples::{DEMO, SINK_ADAPTER, bits, session, unseen_text, with_window};
use mistral_model::{Adapter, HeavyHitters, SessionOptions, Transformer, Window};

const WINDOW: usize = 128;
const SINKS: usize = 4;
/// Tokens of which the fastest is told: on a busy machine the others tell of its company.
const TIMED: usize = 101;

/// Reads a text, prints a row of the table, and returns the bits per byte.
fn row(
    name: &str,
    (model, adapter): (&Transformer, Option<&Arc<Adapter>>),
    options: SessionOptions,
    (text, bytes): (&[u32], usize),
) -> Result<f64, Box<dyn Error>> {
    let mut session = session(model, options, adapter)?;
    let bits_per_byte = bits(&mut session, text)?.iter().sum::<f64>() / bytes as f64;
    let mut fastest = f64::INFINITY;
    for &token in &text[..TIMED] {
        let start = Instant::now();
        session.decode(token)?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    let (cache, microseconds) = (session.cache_bytes(), fastest * 1e6);
    println!("| {name} | {bits_per_byte:.3} | {cache} | {microseconds:.0} |");
    Ok(bits_per_byte)
}

/// Bits per byte by what is kept.
struct Table {
    all: f64,
    window: f64,
    sinks: f64,
    heavy_hitters: f64,
}

impl Table {
    fn of(text: (&[u32], usize), adapter: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let full = with_window(DEMO, Window::Full)?;
        let rolling = with_window(DEMO, Window::last(WINDOW)?)?;
        let shorter = with_window(DEMO, Window::last(WINDOW - SINKS)?)?;
        let adapter =
            adapter.map(|path| Adapter::open(path, full.config())).transpose()?.map(Arc::new);
        let adapter = adapter.as_ref();
        let half = WINDOW / 2;
        // As while a text is written: no room for chunks is counted beside what is kept.
        let plain = SessionOptions { max_chunk: 1, ..Default::default() };
        let with_sinks = SessionOptions { sinks: SINKS, ..plain };
        let heavy_hitters = Some(HeavyHitters { recent: half, heavy: half });
        let h2o = SessionOptions { heavy_hitters, ..plain };

        println!("| kept | bits per byte | bytes of the cache | microseconds a token |");
        println!("|---|---|---|---|");
        let all = row("everything", (&full, adapter), plain, text)?;
        let window = row(&format!("the last {WINDOW}"), (&rolling, adapter), plain, text)?;
        let name = format!("the first {SINKS} and the last {}", WINDOW - SINKS);
        let sinks = row(&name, (&shorter, adapter), with_sinks, text)?;
        let name = format!("{half} heavy hitters and the last {half}");
        let heavy_hitters = row(&name, (&full, adapter), h2o, text)?;
        println!();
        Ok(Self { all, window, sinks, heavy_hitters })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, bytes) = unseen_text(100 * WINDOW)?;
    let text = (text.as_slice(), bytes);

    let Table { all, window, sinks, heavy_hitters } = Table::of(text, None)?;
    assert!(window < 1.65 && (sinks - window).abs() < 0.01);
    assert!(window < heavy_hitters && heavy_hitters < all);

    let leaning = Table::of(text, Some(SINK_ADAPTER))?;
    assert!(leaning.sinks < 1.7 && leaning.window > 1.2 * leaning.sinks);
    assert!(leaning.all > leaning.window);
    Ok(())
}

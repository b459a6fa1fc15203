//! What to keep of a long text: everything, a window, a window and sinks, or heavy hitters.
//!
//! The table of `docs/long_texts.md`, for 100 windows of text.
//!
//! ```text
//! $ cargo run --release -p examples --example long_texts
//! ```

use std::error::Error;
use std::time::Instant;

use examples::{DEMO, bits, unseen_text, with_window};

use mistral_model::{HeavyHitters, Session, SessionOptions, Transformer, Window};

const WINDOW: usize = 128;
const SINKS: usize = 4;
/// Tokens of which the fastest is told: on a busy machine the others tell of its company.
const TIMED: usize = 101;

/// Reads a text, prints a row of the table, and returns the bits per byte.
fn row(
    name: &str,
    model: &Transformer,
    options: SessionOptions,
    (text, bytes): (&[u32], usize),
) -> Result<f64, Box<dyn Error>> {
    let mut session = Session::new(model, options)?;
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

fn main() -> Result<(), Box<dyn Error>> {
    let (text, bytes) = unseen_text(100 * WINDOW)?;
    let text = (text.as_slice(), bytes);
    let full = with_window(DEMO, Window::Full)?;
    let rolling = with_window(DEMO, Window::last(WINDOW)?)?;
    let shorter = with_window(DEMO, Window::last(WINDOW - SINKS)?)?;
    let half = WINDOW / 2;
    // As while a text is written: no room for chunks is counted beside what is kept.
    let plain = SessionOptions { max_chunk: 1, ..Default::default() };
    let sinks = SessionOptions { sinks: SINKS, ..plain };
    let heavy_hitters = Some(HeavyHitters { recent: half, heavy: half });
    let h2o = SessionOptions { heavy_hitters, ..plain };

    println!("| kept | bits per byte | bytes of the cache | microseconds a token |");
    println!("|---|---|---|---|");
    let all = row("everything", &full, plain, text)?;
    let window = row(&format!("the last {WINDOW}"), &rolling, plain, text)?;
    let name = format!("the first {SINKS} and the last {}", WINDOW - SINKS);
    let sinks = row(&name, &shorter, sinks, text)?;
    let name = format!("{half} heavy hitters and the last {half}");
    let h2o = row(&name, &full, h2o, text)?;

    assert!(window < 1.65 && (sinks - window).abs() < 0.01);
    assert!(window < h2o && h2o < all);
    Ok(())
}

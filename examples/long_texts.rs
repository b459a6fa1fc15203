//! What to keep of a long text: everything, a window, a window and sinks, or heavy hitters.
//!
//! The table of `docs/long_texts.md`, for 100 windows of text.
//!
//! ```text
//! $ cargo run --release -p examples --example long_texts
//! ```

use std::error::Error;
use std::time::Instant;

use examples::{DEMO, FULL_ATTENTION, bits, unseen_text, with_window};
use mistral_model::session::HeavyHitters;
use mistral_model::{Session, SessionOptions, Transformer, Window};

const SINKS: usize = 4;
/// Tokens whose median time is taken.
const TIMED: usize = 101;

/// Reads a text and prints a row of the table.
fn row(
    name: &str,
    model: &Transformer,
    options: SessionOptions,
    (text, bytes): (&[u32], usize),
) -> Result<(), Box<dyn Error>> {
    let mut session = Session::new(model, options)?;
    let bits: f64 = bits(&mut session, text)?.iter().sum();
    let mut seconds = Vec::with_capacity(TIMED);
    for &token in &text[..TIMED] {
        let start = Instant::now();
        session.decode(token)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "| {name} | {:.3} | {} | {:.0} |",
        bits / bytes as f64,
        session.cache_bytes(),
        seconds[TIMED / 2] * 1e6,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    for (folder, window) in [(FULL_ATTENTION, 256), (DEMO, 128)] {
        let (text, bytes) = unseen_text(100 * window)?;
        let text = (text.as_slice(), bytes);
        let full = with_window(folder, Window::Full)?;
        let rolling = with_window(folder, Window::last(window)?)?;
        let shorter = with_window(folder, Window::last(window - SINKS)?)?;
        let plain = SessionOptions::default();
        let sinks = SessionOptions { sinks: SINKS, ..plain };
        let heavy_hitters = Some(HeavyHitters { recent: window / 2, heavy: window / 2 });
        // Evicts after each token, as it does while a text is written.
        let h2o = SessionOptions { heavy_hitters, max_chunk: 1, ..plain };
        println!("\n| kept | bits per byte | cache, bytes | microseconds a token |");
        println!("|---|---|---|---|");
        row("everything", &full, plain, text)?;
        row(&format!("the last {window}"), &rolling, plain, text)?;
        row(&format!("{SINKS} sinks, the last {}", window - SINKS), &shorter, sinks, text)?;
        let half = window / 2;
        row(&format!("{half} heavy hitters, the last {half}"), &full, h2o, text)?;
    }
    Ok(())
}

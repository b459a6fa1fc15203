//! 100 windows of text through a cache of one window: with sinks (StreamingLLM, arXiv:2309.17453),
//! without, and through a cache that forgets nothing.
//!
//! Perplexity of a token in each tenth of the text, and bytes of the cache after the first tenth
//! and after the last:
//!
//! ```text
//! $ cargo run --release -p examples --example streaming_llm
//!   afresh   52   49   69   53   68   81   59   32   43   40     331776   331776
//!    sinks   46   43   60   47   59   69   50   26   36   32     356352   356352
//!   window   46   43   60   47   59   68   50   26   36   32     331776   331776
//!      all  111  130  231  197  219  230  238  146  172  153    2101248 19795968
//! ```
//!
//! - *afresh* is the yardstick, for some stretches of a text are harder than others: each 128 tokens
//!   are read as if nothing had been before them. What streams must be better in every stretch.
//! - *sinks* is flat: memory too, and no distance between a query and a key exceeds what the model
//!   was trained on.
//! - *window* is as good, because this model was **trained** with its window: it never had a first
//!   token to lean on. Models trained on whole texts do lean on it, and fail once it has left the
//!   window (section 3.1 of the paper; no such model is in this repository). Sinks are for those;
//!   here they cost four places and gain nothing.
//! - *all* fails: distances that training never had, and ever more memory.

use std::error::Error;

use examples::{BOS, DEMO, bits, mean, unseen_text, with_window};
use mistral_model::{Session, SessionOptions, Transformer, Window};

const WINDOW: usize = 128;
const SINKS: usize = 4;
const TENTHS: usize = 10;
/// Tokens in a tenth of the text.
const TENTH: usize = 100 * WINDOW / TENTHS;

/// How a text was read: mean bits a token in each tenth, bytes of the cache after each.
struct Reading {
    bits: Vec<f64>,
    bytes: Vec<usize>,
}

impl Reading {
    /// As one stream: the model's window, and the first `sinks` tokens.
    fn stream(model: &Transformer, sinks: usize, text: &[u32]) -> Result<Self, Box<dyn Error>> {
        let mut session = Session::new(model, SessionOptions { sinks, ..Default::default() })?;
        let mut reading = Self { bits: Vec::new(), bytes: Vec::new() };
        session.prefill(&text[..1])?;
        for tenth in text[1..].chunks(TENTH) {
            reading.bits.push(mean(&bits(&mut session, tenth)?));
            reading.bytes.push(session.cache_bytes());
        }
        Ok(reading)
    }

    /// A window at a time, each from `<s>`.
    fn afresh(model: &Transformer, text: &[u32]) -> Result<Self, Box<dyn Error>> {
        let mut session = Session::new(model, SessionOptions::default())?;
        let mut all = Vec::new();
        for piece in text[1..].chunks(WINDOW) {
            session.reset()?;
            all.extend(bits(&mut session, &[&[BOS], piece].concat())?);
        }
        let bytes = vec![session.cache_bytes(); TENTHS];
        Ok(Self { bits: all.chunks(TENTH).map(mean).collect(), bytes })
    }

    fn print(&self, name: &str) {
        print!("{name:>8}");
        self.bits.iter().for_each(|bits| print!(" {:4.0}", bits.exp2()));
        println!("   {:8} {:8}", self.bytes[0], self.bytes[TENTHS - 1]);
    }

    /// Whether memory did not grow.
    fn is_constant(&self) -> bool {
        self.bytes.iter().all(|&bytes| bytes == self.bytes[0])
    }

    /// How many bits a token more than another reading, tenth by tenth.
    fn worse_than(&self, other: &Self) -> impl Iterator<Item = f64> {
        self.bits.iter().zip(&other.bits).map(|(these, those)| these - those)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, _) = unseen_text(TENTHS * TENTH)?;
    let own = with_window(DEMO, Window::last(WINDOW)?)?;
    let shorter = with_window(DEMO, Window::last(WINDOW - SINKS)?)?;
    let unlimited = with_window(DEMO, Window::Full)?;

    let afresh = Reading::afresh(&own, &text)?;
    afresh.print("afresh");
    let sinks = Reading::stream(&shorter, SINKS, &text)?;
    sinks.print("sinks");
    let window = Reading::stream(&own, 0, &text)?;
    window.print("window");
    let all = Reading::stream(&unlimited, 0, &text)?;
    all.print("all");

    assert!(sinks.is_constant() && window.is_constant());
    assert!(afresh.worse_than(&sinks).all(|bits| bits > 0.1));
    assert!(window.worse_than(&sinks).all(|bits| bits.abs() < 0.02));
    assert!(all.worse_than(&sinks).all(|bits| bits > 1.0), "a perplexity more than twice as large");
    assert!(all.bytes[TENTHS - 1] > 40 * sinks.bytes[TENTHS - 1]);
    Ok(())
}

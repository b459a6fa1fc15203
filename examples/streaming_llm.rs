//! 100 windows of text through a cache of one window: with sinks (StreamingLLM, arXiv:2309.17453),
//! without, and through a cache that forgets nothing.
//!
//! Perplexity of a token in each tenth of the text, and bytes of the cache after the first tenth
//! and after the last:
//!
//! ```text
//! $ cargo run --release -p examples --example streaming_llm
//! the demo model, trained with its window
//!   afresh   52   49   69   53   68   81   59   32   43   40     331776   331776
//!    sinks   46   43   60   47   59   69   50   26   36   32     356352   356352
//!   window   46   43   60   47   59   68   50   26   36   32     331776   331776
//!      all  111  130  231  197  219  230  238  146  172  153    2297856 19992576
//! the same with an adapter that leans on the first token
//!   afresh   53   50   71   54   67   79   58   32   44   39     331776   331776
//!    sinks   50   47   66   51   63   72   54   28   40   35     356352   356352
//!   window  115   92  183  125  165  184  166  138  162  112     331776   331776
//!      all  228  224  336  334  352  381  334  202  257  219    2297856 19992576
//! ```
//!
//! - *afresh* is the yardstick, for some stretches of a text are harder than others: each 128 tokens
//!   are read as if nothing had been before them. What streams must be better in every stretch.
//! - *sinks* is flat: memory too, and no distance between a query and a key exceeds what the model
//!   was trained on.
//! - *window* is as good for the demo model, because that was **trained** with its window: it never
//!   had a first token to lean on. Models trained on whole texts do lean on it, and fail once it has
//!   left the window (section 3.1 of the paper). The second half shows that: the same model with
//!   `sink-adapter`, which was trained to lay most of its attention on `<s>`.
//! - *all* fails either way: distances that training never had, and ever more memory.

use std::error::Error;
use std::sync::Arc;

use examples::{BOS, DEMO, SINK_ADAPTER, bits, mean, session, unseen_text, with_window};
use mistral_model::{Adapter, SessionOptions, Transformer, Window};

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
    fn stream(
        model: &Transformer,
        adapter: Option<&Arc<Adapter>>,
        sinks: usize,
        text: &[u32],
    ) -> Result<Self, Box<dyn Error>> {
        let options = SessionOptions { sinks, ..Default::default() };
        let mut session = session(model, options, adapter)?;
        let mut reading = Self { bits: Vec::new(), bytes: Vec::new() };
        session.prefill(&text[..1])?;
        for tenth in text[1..].chunks(TENTH) {
            reading.bits.push(mean(&bits(&mut session, tenth)?));
            reading.bytes.push(session.cache_bytes());
        }
        Ok(reading)
    }

    /// A window at a time, each from `<s>`.
    fn afresh(
        model: &Transformer,
        adapter: Option<&Arc<Adapter>>,
        text: &[u32],
    ) -> Result<Self, Box<dyn Error>> {
        let mut session = session(model, SessionOptions::default(), adapter)?;
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

/// The four ways to read a text.
struct Readings {
    afresh: Reading,
    sinks: Reading,
    window: Reading,
    all: Reading,
}

impl Readings {
    fn of(text: &[u32], adapter: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let own = with_window(DEMO, Window::last(WINDOW)?)?;
        let shorter = with_window(DEMO, Window::last(WINDOW - SINKS)?)?;
        let unlimited = with_window(DEMO, Window::Full)?;
        let adapter =
            adapter.map(|path| Adapter::open(path, own.config())).transpose()?.map(Arc::new);
        let adapter = adapter.as_ref();
        let readings = Self {
            afresh: Reading::afresh(&own, adapter, text)?,
            sinks: Reading::stream(&shorter, adapter, SINKS, text)?,
            window: Reading::stream(&own, adapter, 0, text)?,
            all: Reading::stream(&unlimited, adapter, 0, text)?,
        };
        readings.afresh.print("afresh");
        readings.sinks.print("sinks");
        readings.window.print("window");
        readings.all.print("all");
        Ok(readings)
    }

    /// Sinks keep quality and memory; keeping everything keeps neither.
    fn check(&self) {
        assert!(self.sinks.is_constant() && self.window.is_constant());
        assert!(self.afresh.worse_than(&self.sinks).all(|bits| bits > 0.03));
        assert!(self.all.worse_than(&self.sinks).all(|bits| bits > 1.0), "perplexity not doubled");
        assert!(self.all.bytes[TENTHS - 1] > 40 * self.sinks.bytes[TENTHS - 1]);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, _) = unseen_text(TENTHS * TENTH)?;

    println!("the demo model, trained with its window");
    let demo = Readings::of(&text, None)?;
    demo.check();
    assert!(demo.window.worse_than(&demo.sinks).all(|bits| bits.abs() < 0.02));

    println!("the same with an adapter that leans on the first token");
    let leaning = Readings::of(&text, Some(SINK_ADAPTER))?;
    leaning.check();
    assert!(leaning.window.worse_than(&leaning.sinks).all(|bits| bits > 0.9));
    Ok(())
}

//! 100 windows of text through a cache of one window: sinks keep quality and memory as they are
//! (StreamingLLM, arXiv:2309.17453).
use std::error::Error;

use examples::{DEMO, FULL_ATTENTION, bits, mean, unseen_text, with_window};
use mistral_model::{Session, SessionOptions, Transformer, Window};

const TENTHS: usize = 10;
const SINKS: usize = 4;
const BOS: u32 = 1;

/// How a text was read: mean bits a token in each tenth of it, bytes of the cache after each.
struct Reading {
    bits: Vec<f64>,
    bytes: Vec<usize>,
}

impl Reading {
    /// As one stream, by a model that keeps `window` tokens and the first `sinks`.
    fn stream(model: &Transformer, sinks: usize, text: &[u32]) -> Result<Self, Box<dyn Error>> {
        let mut session = Session::new(model, SessionOptions { sinks, ..Default::default() })?;
        let tenth = (text.len() - 1) / TENTHS;
        let mut reading = Self { bits: Vec::new(), bytes: Vec::new() };
        for start in (0..TENTHS).map(|i| i * tenth) {
            reading.bits.push(mean(&bits(&mut session, &text[start..=start + tenth])?));
            reading.bytes.push(session.cache_bytes());
        }
        Ok(reading)
    }

    /// In pieces of `window` tokens, each read from `<s>` as if nothing had been before it.
    fn afresh(model: &Transformer, window: usize, text: &[u32]) -> Result<Self, Box<dyn Error>> {
        let mut session = Session::new(model, SessionOptions::default())?;
        let mut all = Vec::new();
        for piece in text[1..].chunks(window) {
            session.reset()?;
            all.extend(bits(&mut session, &[&[BOS], piece].concat())?);
        }
        let bits: Vec<f64> = all.chunks(all.len() / TENTHS).map(mean).collect();
        let bytes = vec![session.cache_bytes(); TENTHS];
        Ok(Self { bits, bytes })
    }

    fn print(&self, name: &str) {
        print!("{name:>24}");
        self.bits.iter().for_each(|bits| print!(" {bits:5.2}"));
        println!("  {:>9} -> {:>9} bytes", self.bytes[0], self.bytes[TENTHS - 1]);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, _) = unseen_text()?;
    for (folder, window) in [(FULL_ATTENTION, 256), (DEMO, 128)] {
        let n = 100 * window;
        let text = &text[..=n];
        println!("{folder}: {n} tokens");
        let one = with_window(folder, Window::last(window)?)?;
        let less = with_window(folder, Window::last(window - SINKS)?)?;
        let all = with_window(folder, Window::last(n)?)?;
        Reading::afresh(&one, window, text)?.print("afresh");
        Reading::stream(&less, SINKS, text)?.print("window + sinks");
        Reading::stream(&one, 0, text)?.print("window");
        Reading::stream(&all, 0, text)?.print("full");
    }
    Ok(())
}

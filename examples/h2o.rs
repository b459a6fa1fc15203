//! Quality against the size of the cache: heavy hitters (H2O, arXiv:2306.14048) beside a window,
//! and a window with sinks, of the same size.
use std::error::Error;

use examples::{BOS, FULL_ATTENTION, bits, mean, unseen_text, with_window};
use mistral_model::session::HeavyHitters;
use mistral_model::{Session, SessionOptions, Transformer, Window};

/// What the model was trained for, and how many such texts are read.
const LENGTH: usize = 256;
const TEXTS: usize = 40;
const SINKS: usize = 4;

/// Mean bits of a token in the second halves of the texts.
fn late_bits(
    model: &Transformer,
    options: SessionOptions,
    text: &[u32],
) -> Result<f64, Box<dyn Error>> {
    let mut session = Session::new(model, options)?;
    let mut late = Vec::new();
    for piece in text[1..].chunks(LENGTH) {
        session.reset()?;
        late.extend(&bits(&mut session, &[&[BOS], piece].concat())?[LENGTH / 2..]);
    }
    Ok(mean(&late))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, _) = unseen_text(TEXTS * LENGTH)?;
    let plain = SessionOptions::default();
    let full = with_window(FULL_ATTENTION, Window::Full)?;
    let best = late_bits(&full, plain, &text)?;
    println!("everything: {best:.3} bits a token");
    println!("budget  window  sinks  heavy hitters");
    for budget in [16, 32, 64, 128] {
        let window = with_window(FULL_ATTENTION, Window::last(budget)?)?;
        let shorter = with_window(FULL_ATTENTION, Window::last(budget - SINKS)?)?;
        let heavy_hitters = Some(HeavyHitters { recent: budget / 2, heavy: budget / 2 });
        let h2o = SessionOptions { heavy_hitters, max_chunk: 1, ..plain };
        let window = late_bits(&window, plain, &text)?;
        let sinks = late_bits(&shorter, SessionOptions { sinks: SINKS, ..plain }, &text)?;
        let heavy = late_bits(&full, h2o, &text)?;
        println!("{budget:6}  {window:6.3}  {sinks:6.3}  {heavy:6.3}");
    }
    Ok(())
}

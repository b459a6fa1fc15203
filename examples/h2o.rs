//! Quality against the size of the cache: heavy hitters (H2O, arXiv:2306.14048) beside a window, and
//! a window with sinks, of the same number of positions.
//!
//! Bits a token in the second halves of texts of 128 tokens, the distance that the model was trained
//! on. Half of H2O's budget is recent positions, as in the paper.
//!
//! ```text
//! $ cargo run --release -p examples --example h2o
//! ```

use std::error::Error;

use examples::{BOS, DEMO, bits, mean, unseen_text, with_window};
use mistral_model::{HeavyHitters, Session, SessionOptions, Transformer, Window};

const LENGTH: usize = 128;
const TEXTS: usize = 60;
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

/// Keeps `recent` positions and as many of the older ones, after each token, as it does when a text
/// is written.
fn half_heavy(budget: usize) -> SessionOptions {
    let heavy_hitters = Some(HeavyHitters { recent: budget / 2, heavy: budget / 2 });
    SessionOptions { heavy_hitters, max_chunk: 1, ..Default::default() }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (text, _) = unseen_text(TEXTS * LENGTH)?;
    let plain = SessionOptions::default();
    let model = with_window(DEMO, Window::Full)?;
    let best = late_bits(&model, plain, &text)?;
    println!("everything: {best:.3} bits a token\nbudget  window   sinks     H2O");
    let mut lost = Vec::new();
    for budget in [8, 16, 32, 64, 128] {
        let rolling = with_window(DEMO, Window::last(budget)?)?;
        let shorter = with_window(DEMO, Window::last(budget - SINKS)?)?;
        let window = late_bits(&rolling, plain, &text)?;
        let sinks = late_bits(&shorter, SessionOptions { sinks: SINKS, ..plain }, &text)?;
        let heavy = late_bits(&model, half_heavy(budget), &text)?;
        println!("{budget:6}  {window:6.3}  {sinks:6.3}  {heavy:6.3}");
        lost.push(heavy - best);
    }
    assert!(lost.is_sorted_by(|less, more| *more < less + 0.01), "more memory is no worse");
    assert!(lost[0] > 0.1 && lost[3] < 0.03, "half of the positions are as good as all");
    assert_eq!(lost[4], 0.0, "nothing was evicted: the same bits");
    Ok(())
}

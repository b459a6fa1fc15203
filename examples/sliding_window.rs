//! Which keys does a query see? Values that are one-hot turn the output into the attention weights.
//!
//! ```text
//! $ cargo run -p examples --example sliding_window
//!     key  0 1 2 3 4 5 6 7 8 9
//! query 0  # . . . . . . . . .  1 keys
//! query 1  # # . . . . . . . .  2 keys
//! query 2  # # # . . . . . . .  3 keys
//! query 3  # # # # . . . . . .  4 keys
//! query 4  . # # # # . . . . .  4 keys
//! query 5  . . # # # # . . . .  4 keys
//! query 6  . . . # # # # . . .  4 keys
//! query 7  . . . . # # # # . .  4 keys
//! query 8  . . . . . # # # # .  4 keys
//! query 9  . . . . . . # # # #  4 keys
//! ```

use std::error::Error;

use mistral_attention::{Attention, AttentionConfig, KvView, Window};
use ndarray::{Array3, s};

const POSITIONS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let window = Window::last(4)?;
    // One head, with an element for each position: the value of position 3 is 0 0 0 1 0 0 0 0 0 0.
    let shape = (POSITIONS, 1, POSITIONS);
    let attention = Attention::new(AttentionConfig::new(1, 1, POSITIONS).with_window(window))?;
    let q = Array3::from_shape_fn(shape, |(i, _, d)| ((3 * i + 5 * d) as f32).sin());
    let k = Array3::from_shape_fn(shape, |(j, _, d)| ((7 * j + 2 * d) as f32).cos());
    let v = Array3::from_shape_fn(shape, |(j, _, d)| if j == d { 1.0 } else { 0.0 });
    let mut out = Array3::zeros(shape);
    attention.forward(q.view(), &KvView::from_arrays(k.view(), v.view())?, out.view_mut())?;

    println!("    key  0 1 2 3 4 5 6 7 8 9");
    for query in 0..POSITIONS {
        let weights = out.slice(s![query, 0, ..]);
        let seen: Vec<usize> = (0..POSITIONS).filter(|&key| weights[key] > 0.0).collect();
        let drawn: Vec<&str> =
            weights.iter().map(|&weight| if weight > 0.0 { "#" } else { "." }).collect();
        println!("query {query}  {}  {} keys", drawn.join(" "), seen.len());

        assert_eq!(seen, window.visible(query).collect::<Vec<_>>());
        assert!((weights.sum() - 1.0).abs() < 1e-6);
    }
    Ok(())
}

//! Figure 3 of arXiv:2310.06825, its own words: chunks of 4, W = 4. Right of the last bar is the
//! chunk, between two bars the cache, left of both what the ring dropped. Writing comes last.
//!
//! ```text
//! $ cargo run -p examples --example chunked_prefill
//!        The  cat  sat   on  the  mat  and  saw  the  dog   go   to
//!   The |  #    .    .    .
//!   cat |  #    #    .    .
//!   sat |  #    #    #    .
//!    on |  #    #    #    #
//!   the |  .    #    #    # |  #    .    .    .
//!   mat |  .    .    #    # |  #    #    .    .
//!   and |  .    .    .    # |  #    #    #    .
//!   saw |  .    .    .    . |  #    #    #    #
//!   the    .    .    .    . |  .    #    #    # |  #    .    .    .
//!   dog    .    .    .    . |  .    .    #    # |  #    #    .    .
//!    go    .    .    .    . |  .    .    .    # |  #    #    #    .
//!    to    .    .    .    . |  .    .    .    . |  #    #    #    #
//! the same bits as in one shot
//! ```

use mistral_attention::{Attention, AttentionConfig, KvView, Window};
use mistral_kvcache::{ChunkPlan, LayerCache};
use ndarray::{Array3, s};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<&str> = "The cat sat on the mat and saw the dog go to".split(' ').collect();
    let n = words.len();
    // One-hot values: row i of the output is how much word i attends to each word.
    let attention = Attention::new(AttentionConfig::new(1, 1, n).with_window(Window::last(4)?))?;
    let q = Array3::from_shape_fn((n, 1, n), |(i, _, d)| ((3 * i + 5 * d) as f32).sin());
    let k = Array3::from_shape_fn((n, 1, n), |(j, _, d)| ((7 * j + 2 * d) as f32).cos());
    let v = Array3::from_shape_fn((n, 1, n), |(j, _, d)| if j == d { 1.0 } else { 0.0 });
    let (mut at_once, mut chunked) = (Array3::zeros((n, 1, n)), Array3::zeros((n, 1, n)));
    attention.forward(q.view(), &KvView::from_arrays(k.view(), v.view())?, at_once.view_mut())?;

    println!("     {}", words.iter().map(|word| format!("{word:>5}")).collect::<String>());
    let mut cache = LayerCache::<f32>::new(1, n, 4)?;
    for chunk in ChunkPlan::new(n, 4)? {
        let part = s![chunk.clone(), .., ..];
        let step = cache.stage(k.slice(part), v.slice(part))?;
        let view = step.kv()?;
        attention.forward(q.slice(part), &view, chunked.slice_mut(part))?;
        let cached = view.positions().start;
        step.commit();

        for query in chunk.clone() {
            print!("{:>5}", words[query]);
            for key in 0..chunk.end {
                let bar = if key == cached || key == chunk.start { "|" } else { " " };
                let mark = if chunked[[query, 0, key]] > 0.0 { "#" } else { "." };
                print!(" {bar}{mark:>3}");
            }
            println!();
        }
    }
    assert_eq!(chunked.mapv(f32::to_bits), at_once.mapv(f32::to_bits));
    println!("the same bits as in one shot");
    Ok(())
}

//! The rolling buffer of figure 2 of arXiv:2310.06825: three sequences, W = 4, three steps.
//!
//! Drawn as there, with position `i` in slot `i % 4` (in memory slots come in sixteens); `>` marks
//! the newest word. From the fifth on, each new word takes the place of the oldest, which no later
//! query sees.
//!
//! ```text
//! $ cargo run -p examples --example rolling_cache
//!       This        is       >an         -
//!       This        is        an  >example
//!        >of        is        an   example
//!    Mistral       >is         -         -
//!    Mistral        is        >a         -
//!    Mistral        is         a     >good
//!        The       cat       sat       >on
//!       >the       cat       sat        on
//!        the      >mat       sat        on
//! ```

use mistral_kvcache::{CacheError, LayerCache};
use ndarray::Array3;

const W: usize = 4;
const SENTENCES: [&str; 3] =
    ["This is an example of", "Mistral is a good", "The cat sat on the mat"];

/// Puts the next `n` words into the cache; each key says which position it belongs to.
fn push(cache: &mut LayerCache<f32>, n: usize) -> Result<(), CacheError> {
    let position = cache.position();
    let rows = Array3::from_shape_fn((n, 1, 8), |(i, _, _)| (position + i) as f32);
    let staged = cache.stage(rows.view(), rows.view())?;
    // A model attends to this view. Up to the commit nothing is overwritten.
    let view = staged.kv()?;
    for position in view.positions() {
        let mut key = [0.0; 8];
        view.head(0).and_then(|head| head.key(position, &mut key));
        assert_eq!(key, [position as f32; 8]);
    }
    staged.commit();
    Ok(())
}

fn main() -> Result<(), CacheError> {
    for sentence in SENTENCES {
        let words: Vec<&str> = sentence.split(' ').collect();
        let mut cache = LayerCache::new(1, 8, W)?;
        // A prompt in one chunk, then two words that a model might have chosen.
        for n in [words.len() - 2, 1, 1] {
            push(&mut cache, n)?;
            let newest = cache.position() - 1;
            assert_eq!(cache.held(), cache.position().saturating_sub(W)..cache.position());
            for slot in 0..W {
                let position = cache.held().find(|i| i % W == slot);
                let mark = if position == Some(newest) { ">" } else { "" };
                print!("{:>10}", mark.to_owned() + position.map_or("-", |i| words[i]));
            }
            println!();
        }
    }
    Ok(())
}

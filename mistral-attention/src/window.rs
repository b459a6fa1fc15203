//! Which keys a query sees: the only definition of the window in this workspace.
//!
//! A window of `W` tokens counts the query's own: position `i` sees the keys `i+1-W ..= i`, and
//! none below 0. With `W = 3`:
//!
//! ```text
//!              key  0  1  2  3  4  5
//!     query 0       1  .  .  .  .  .
//!     query 1       1  1  .  .  .  .
//!     query 2       1  1  1  .  .  .      three keys, and never more
//!     query 3       .  1  1  1  .  .
//!     query 4       .  .  1  1  1  .
//!     query 5       .  .  .  1  1  1
//! ```
//!
//! Mistral 7B (arXiv:2310.06825, section 2) says "positions between i - W and i", which read with
//! both ends would be `W + 1` keys; its figure 1, its rolling buffer (slot `i mod W`, so at most
//! `W` keys can be there) and its own implementation all have `W`.
//!
//! Kernels turn this range into loop bounds. There is no mask tensor, and keys that no query sees
//! are never read.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::error::AttentionError;

/// How far back a query sees.
///
/// ```
/// use mistral_attention::Window;
///
/// let window = Window::last(4096)?;
/// assert_eq!(window.visible(10), 0..11);
/// assert_eq!(window.visible(4095), 0..4096); // the first full window
/// assert_eq!(window.visible(4096), 1..4097); // key 0 has left it
/// # Ok::<(), mistral_attention::AttentionError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Window {
    /// Every key up to the query's own: plain causal attention.
    #[default]
    Full,
    /// The last so many keys, the query's own among them.
    Last(NonZeroUsize),
}

impl Window {
    /// The last `size` keys, the query's own among them.
    ///
    /// # Errors
    ///
    /// - [`AttentionError::ZeroWindow`]: `size` is 0; a query sees at least its own key.
    pub fn last(size: usize) -> Result<Self, AttentionError> {
        NonZeroUsize::new(size).map(Self::Last).ok_or(AttentionError::ZeroWindow)
    }

    /// From `sliding_window` of a Hugging Face configuration: a size as here, or `null` for none.
    ///
    /// # Errors
    ///
    /// - [`AttentionError::ZeroWindow`]: the size is 0.
    pub fn from_hf(sliding_window: Option<usize>) -> Result<Self, AttentionError> {
        sliding_window.map_or(Ok(Self::Full), Self::last)
    }

    /// From flash-attention's `window_size = (left, 0)`: `left` keys beside the query's own.
    ///
    /// ```
    /// use mistral_attention::Window;
    ///
    /// assert_eq!(Window::from_flash_left(4095), Window::last(4096)?);
    /// # Ok::<(), mistral_attention::AttentionError>(())
    /// ```
    pub fn from_flash_left(left: usize) -> Self {
        Self::Last(NonZeroUsize::MIN.saturating_add(left))
    }

    /// The number of keys in a full window, or `None` if there is no limit.
    pub fn size(self) -> Option<NonZeroUsize> {
        match self {
            Self::Full => None,
            Self::Last(size) => Some(size),
        }
    }

    /// The oldest key that the query at `position` sees.
    pub fn first_visible(self, position: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Last(size) => position.saturating_sub(size.get() - 1),
        }
    }

    /// The keys that the query at `position` sees: never empty, and the last one is its own.
    pub fn visible(self, position: usize) -> Range<usize> {
        self.first_visible(position)..position.saturating_add(1)
    }

    /// Whether the query at position `query` sees the key at position `key`.
    pub fn sees(self, query: usize, key: usize) -> bool {
        self.visible(query).contains(&key)
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("no window"),
            Self::Last(size) => write!(f, "window of {size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a query, one column a key: `1` where the query sees the key.
    fn drawn(window: Window, len: usize) -> Vec<String> {
        (0..len)
            .map(|query| {
                (0..len).map(|key| if window.sees(query, key) { '1' } else { '.' }).collect()
            })
            .collect()
    }

    #[test]
    fn without_a_window_the_mask_is_causal() {
        assert_eq!(drawn(Window::Full, 5), ["1....", "11...", "111..", "1111.", "11111"]);
    }

    #[test]
    fn a_window_of_three_is_three_keys_with_the_own_one() {
        assert_eq!(
            drawn(Window::last(3).unwrap(), 6),
            ["1.....", "11....", "111...", ".111..", "..111.", "...111"]
        );
    }

    #[test]
    fn a_window_of_one_is_the_diagonal() {
        assert_eq!(drawn(Window::last(1).unwrap(), 4), ["1...", ".1..", "..1.", "...1"]);
    }

    #[test]
    fn a_window_of_four_as_in_figure_1_of_the_paper() {
        assert_eq!(
            drawn(Window::last(4).unwrap(), 7),
            ["1......", "11.....", "111....", "1111...", ".1111..", "..1111.", "...1111"]
        );
    }

    #[test]
    fn a_window_longer_than_the_sequence_is_causal() {
        for size in [6, 7, usize::MAX] {
            assert_eq!(drawn(Window::last(size).unwrap(), 6), drawn(Window::Full, 6));
        }
    }

    #[test]
    fn from_the_window_on_every_query_sees_exactly_w_keys() {
        for size in 1..=9 {
            let window = Window::last(size).unwrap();
            for position in 0..6 * size {
                assert_eq!(window.visible(position).len(), size.min(position + 1));
                assert_eq!(window.visible(position).end, position + 1);
            }
        }
    }

    #[test]
    fn other_spellings_mean_the_same_window() {
        let four = Window::last(4).unwrap();
        assert_eq!(Window::from_hf(Some(4)).unwrap(), four);
        assert_eq!(Window::from_hf(None).unwrap(), Window::Full);
        assert_eq!(Window::from_flash_left(3), four);
        assert_eq!(Window::from_flash_left(0), Window::last(1).unwrap());
        assert_eq!(four.size().unwrap().get(), 4);
        assert_eq!(four.to_string(), "window of 4");
        assert_eq!(Window::Full.to_string(), "no window");
    }

    #[test]
    fn a_window_of_zero_is_refused() {
        assert_eq!(Window::last(0), Err(AttentionError::ZeroWindow));
        assert_eq!(Window::from_hf(Some(0)), Err(AttentionError::ZeroWindow));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        assert_eq!(Window::from_flash_left(usize::MAX).first_visible(usize::MAX), 1);
        assert_eq!(Window::last(1).unwrap().visible(usize::MAX - 1), usize::MAX - 1..usize::MAX);
    }
}

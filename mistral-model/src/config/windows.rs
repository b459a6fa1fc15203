//! Windows as files tell them: one for all layers, or a list.

use mistral_attention::Window;
use serde::Deserialize;

use super::{ConfigProblem, MOST_LAYERS};

/// `sliding_window`: a number of tokens, or one for each layer, `null` for none.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "sliding_window is neither a number of tokens nor a list of such numbers and nulls"
)]
pub(super) enum SlidingWindow {
    One(usize),
    Each(Vec<Option<usize>>),
}

impl SlidingWindow {
    /// The window of all layers, or that of the one that sees most and those of each.
    ///
    /// A list shorter than the layers begins anew where it ends, as in mistral-inference.
    pub(super) fn of_layers(self, n_layers: usize) -> Result<(Window, Vec<Window>), ConfigProblem> {
        let sizes = match self {
            Self::One(size) => vec![Some(size)],
            Self::Each(sizes) => sizes,
        };
        if sizes.contains(&Some(0)) {
            let expected = "at least 1, or null for none";
            return Err(ConfigProblem::unfit("sliding_window", 0, expected));
        }
        let windows: Vec<Window> =
            sizes.iter().filter_map(|size| Window::from_hf(*size).ok()).collect();
        let most = windows.iter().copied().max_by_key(|window| reach(*window));
        let most = most.unwrap_or_default();
        // A number of layers that no model has is named elsewhere, before a list of them is made.
        if windows.iter().all(|window| *window == most) || n_layers > MOST_LAYERS {
            return Ok((most, Vec::new()));
        }
        if !n_layers.is_multiple_of(windows.len()) {
            let found = format!("a list of {} for {n_layers} layers", windows.len());
            let expected = "one for each layer, or a list that repeats";
            return Err(ConfigProblem::unfit("sliding_window", found, expected));
        }
        Ok((most, windows.into_iter().cycle().take(n_layers).collect()))
    }
}

/// How many tokens are seen.
pub(super) fn reach(window: Window) -> usize {
    window.size().map_or(usize::MAX, usize::from)
}

//! Progress bars on standard error, where a person may be waiting.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Smaller files are read before anybody could look.
const SLOW_TO_LOAD: u64 = 64 << 20;

/// A bar that vanishes when it is dropped. It is never drawn if standard error is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For reading so many bytes of weights.
    pub(crate) fn loading(bytes: u64) -> Self {
        let template = "loading {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}";
        Self::new(bytes, bytes >= SLOW_TO_LOAD, template)
    }

    /// For writing so many bytes of weights.
    pub(crate) fn writing(bytes: u64) -> Self {
        let template = "writing {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}";
        Self::new(bytes, bytes >= SLOW_TO_LOAD, template)
    }

    /// For so many tokens in chunks: a single chunk has no progress to show.
    pub(crate) fn reading(tokens: usize, chunk: usize) -> Self {
        let template = "reading {wide_bar} {pos}/{len} tokens {eta}";
        Self::new(tokens as u64, tokens > chunk, template)
    }

    /// For so many bytes of a text.
    pub(crate) fn scoring(bytes: u64) -> Self {
        let template = "scoring {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}";
        Self::new(bytes, true, template)
    }

    /// For so many requests.
    pub(crate) fn scoring_requests(requests: usize) -> Self {
        let template = "scoring {wide_bar} {pos}/{len} requests {eta}";
        Self::new(requests as u64, requests > 1, template)
    }

    /// For so many lines of a batch.
    pub(crate) fn answering(lines: usize) -> Self {
        Self::new(lines as u64, true, "answering {wide_bar} {pos}/{len} {eta}")
    }

    fn new(length: u64, shown: bool, template: &str) -> Self {
        let target =
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(0);
        Self(bar)
    }

    pub(crate) fn reached(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

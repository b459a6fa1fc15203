//! What a user should know of files that are read all the same.

use std::path::PathBuf;

/// Something that files leave open and that may not be what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A GGUF file that says nothing of a window, which converters leave out for v0.1 too.
    #[error(
        "{} does not say whether the model has a sliding window, so every token sees all {context_len} \
         before it; Mistral 7B v0.1 was trained with a window of 4096: if this is one, say so",
        .path.display()
    )]
    NoWindow {
        /// The file.
        path: PathBuf,
        /// Tokens of the longest sequence.
        context_len: usize,
    },
}

//! How the files of a model are read.

use mistral_attention::Window;

use super::formats::WeightFormats;

/// How files are read.
#[derive(Debug, Clone, Copy, Default)]
#[must_use]
pub struct OpenOptions {
    #[cfg(feature = "mmap")]
    pub(super) mmap: bool,
    pub(super) formats: Option<WeightFormats>,
    pub(super) window: Option<Window>,
}

impl OpenOptions {
    /// Ordinary reads.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads through a memory map: no buffer between the page cache and the matrices.
    ///
    /// Weights in the kernels' layout ([`Checkpoint::write`](super::Checkpoint::write)) stay in the map and are shared with
    /// every process that maps the file; others are brought into that layout, so that only a copy
    /// is saved. The file must not be written or shortened by anyone while the model lives: its
    /// weights would change, or the operating system would end the program.
    #[cfg(feature = "mmap")]
    pub fn mmap(self, mmap: bool) -> Self {
        Self { mmap, ..self }
    }

    /// Rounds the weights to other formats while they are read, tensor by tensor: memory in use is
    /// the result and one tensor at most. Without it weights keep the format that they are in.
    pub fn weights(self, formats: impl Into<WeightFormats>) -> Self {
        Self { formats: Some(formats.into()), ..self }
    }

    /// The window of the attention in all layers, whatever the files say. GGUF files often say nothing: see
    /// [`Warning::NoWindow`](super::Warning::NoWindow).
    pub fn window(self, window: Window) -> Self {
        Self { window: Some(window), ..self }
    }
}

//! Programs that show the crates at work. Each is one file of at most 60 lines, with its command and
//! its output on top; run one with `cargo run --release -p examples --example NAME`.
//!
//! | example | crates | what it shows |
//! |---|---|---|
//! | `sliding_window` | attention | which keys each query sees, read off the attention weights |
//! | `rolling_cache` | kvcache | slots being overwritten, figure 2 of arXiv:2310.06825 |
//! | `chunked_prefill` | attention, kvcache | past, cache and current chunk, figure 3 of the same; the bits do not change |
//! | `generate` | model | text as it comes, from the demo model or a folder of your own |
//! | `custom_model` | model, kvcache | a model of any shape, shared by two threads, then cut in halves |
//! | `bits_per_byte` | model | how well a model predicts a text file, as one unbroken stream |
//!
//! This package has no code of its own: cargo wants a library beside the examples, and this is it.

/// The code in the repository's front page compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct FrontPage;

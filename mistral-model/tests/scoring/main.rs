//! How likely texts are: of continuations, of files, and how both become tokens.
#![allow(clippy::unwrap_used)] // a test may panic

mod likelihoods;
mod perplexity;
#[cfg(feature = "tokenizer")]
mod text;
mod tiny;

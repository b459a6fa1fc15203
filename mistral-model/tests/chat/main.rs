//! Conversations against mistral-common, and what nobody should be able to break.
#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

mod calls;
mod conversation;
mod fim;
mod golden;
#[cfg(feature = "jinja")]
mod jinja;
mod messages;
mod moderation;

use std::path::PathBuf;

use mistral_model::Tokenizer;

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The vocabulary of 7B v0.1 (`v1`) or v0.3 (`v2`).
fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(golden("tokenizer").join(name)).unwrap()
}

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mistral-cli/demo/model")
}

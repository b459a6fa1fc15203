//! The program as its users see it: arguments and streams in; text, files and exit codes out.
//!
//! Nothing here knows what the demo model writes: it may be trained anew.
#![allow(clippy::unwrap_used)] // a test may panic

mod adapter;
mod bad_input;
mod batch;
mod bench;
mod chat;
mod generate;
mod inspect;
mod logits;
mod moderate;
mod perplexity;
mod program;
mod quantize;
mod sampling;
mod score;
mod successor;
#[cfg(unix)]
mod terminal;
mod tokenize;
mod tools;

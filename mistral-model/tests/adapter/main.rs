//! Adapters: the logits of peft, the same bits in any company, and files from strangers.
#![allow(clippy::panic, clippy::unwrap_used)] // a test may panic

mod bits;
mod files;
mod golden;
mod hostile;
mod output;
mod settings;

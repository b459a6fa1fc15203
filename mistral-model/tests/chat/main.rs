//! Conversations against mistral-common, and what nobody should be able to break.
#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

mod golden;

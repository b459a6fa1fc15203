//! GGUF files, as converters write Mistral for llama.cpp.
//!
//! ```text
//! magic, version, counts │ key/values │ tensor table │ padding │ tensors, each on a border
//! ```
//!
//! What is here: the header, checked whole before anything is allocated for a tensor
//! (`header.rs`), its values (`value.rs`), and what they say of the model (`model.rs`). The tensors
//! are read like those of any other file.

mod error;
mod header;
mod model;
mod reader;
mod value;

pub use error::GgufError;
pub(crate) use header::Header;
pub(super) use model::config;
#[cfg(feature = "tokenizer")]
pub(crate) use model::pieces;

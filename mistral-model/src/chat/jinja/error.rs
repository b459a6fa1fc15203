//! Templates that cannot be used.

use std::path::PathBuf;

use crate::chat::json::JsonError;

/// A template that cannot be used, or that fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JinjaError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration of the tokenizer is no JSON.
    #[error("{} is no JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: JsonError,
    },
    /// Longer than any real template.
    #[error("the chat template has {found} bytes, expected at most {limit}")]
    TooLong {
        /// Bytes found.
        found: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// No Jinja.
    #[error("the chat template is no Jinja that can be run")]
    Syntax {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It failed while it ran, or took too many steps.
    #[error("the chat template fails")]
    Run {
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It called `raise_exception`.
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// Its own words.
        message: String,
    },
    /// It wrote too much.
    #[error("the chat template writes more than {limit} bytes")]
    Output {
        /// Bytes accepted.
        limit: usize,
    },
    /// A message to be gone on with.
    #[error(
        "the last message has `prefix`, which chat templates in Jinja do not have: leave it out"
    )]
    Prefix,
}

//! Everything that can go wrong, and the exit code that it leads to.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use indicatif::BinaryBytes;
use mistral_model::chat::{ChatError, ConversationError, ModerationError};
use mistral_model::generate::{ConstraintError, SamplerError, StopError, TextError};
use mistral_model::score::{RequestError, ScoreError, TextReadError};
use mistral_model::tokenizer::TokenizerError;
use mistral_model::{ConfigError, MatrixError, ModelError, WeightFormat, WeightsError};
use rustyline::error::ReadlineError;

use crate::requests::NotARequest;
use crate::token_list::NotAToken;

/// Something failed on the way.
const FAILED: u8 = 1;
/// What was asked cannot be done: bad options, prompts, tokens or files of a model.
const BAD_INPUT: u8 = 2;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Text(#[from] TextError<ModelError>),
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    #[error("{option} names token {token}, which has no piece, expected an id below {vocab_size}")]
    NoSuchToken { option: &'static str, token: u32, vocab_size: usize },
    #[error(transparent)]
    Chat(#[from] ChatError),
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    #[error(transparent)]
    Moderation(#[from] ModerationError),
    #[error("{} holds no conversation", .path.display())]
    NoConversation { path: PathBuf, source: ChatError },
    #[error(
        "the model's folder has no chat_template.jinja and no chat_template in \
         tokenizer_config.json: choose another template than jinja"
    )]
    NoTemplate,
    #[error("the terminal cannot be read")]
    Terminal(#[from] ReadlineError),
    #[error(transparent)]
    Tokens(#[from] NotAToken),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error("{name} cannot be scored")]
    TextRead { name: String, source: TextReadError },
    #[error("line {line} of {name} is no request")]
    Request { name: String, line: usize, source: NotARequest },
    #[error("line {line} of {name} cannot be scored")]
    Unscorable { name: String, line: usize, source: Box<RequestError> },
    #[error("cannot read {name}")]
    Input { name: String, source: io::Error },
    #[error(
        "{name} is not UTF-8: byte {offset} is {found:#04x}; convert it, for instance with iconv"
    )]
    NotUtf8 { name: String, offset: usize, found: u8 },
    #[error("{name} has more than {limit} bytes, expected no more")]
    TooLong { name: String, limit: usize },
    #[error(
        "{} does not begin with #V2, as the history of a chat does: its lines would be lost; \
         expected an empty file, a new one, or one of --history", .path.display()
    )]
    NotAHistory { path: PathBuf },
    #[error("{} is no ordinary file, expected the name of one, old or new", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is being written to by another process: wait for it, or choose another file", .path.display())]
    InUse { path: PathBuf },
    #[error(
        "line {line} of {} is no answer to line {line} of this batch with these options: expected \
         the file of an earlier run, or a new one", .path.display()
    )]
    OtherBatch { path: PathBuf, line: usize },
    #[error("the model's files changed while they were read: run it again once they are written")]
    ModelChanged,
    #[error("--shape is {found:?}, expected 7b-v0.1, 7b-v0.2, 7b-v0.3 or a file")]
    Shape { found: String, source: io::Error },
    #[error("{found} holds no shape of a model")]
    ShapeFile { found: String, source: ConfigError },
    #[error(
        "the rows of this shape are no whole blocks of {format} ({block} weights): choose another \
         format, such as bf16"
    )]
    Misfit { format: WeightFormat, block: usize },
    #[error(
        "the weights take {} and the cache {}, and {} are free: choose a format of fewer bits, fewer \
         layers, or fewer tokens",
        BinaryBytes(*.weights), BinaryBytes(*.cache), BinaryBytes(*.available)
    )]
    Memory { weights: u64, cache: u64, available: u64 },
    #[error("--json shows one format, and {found} were given")]
    SeveralFormats { found: usize },
    #[error("{} is there already, expected the name of a new folder", .path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", .path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Stdout { source: io::Error },
    #[error("cannot start the threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("cannot listen for Ctrl-C")]
    Interrupt(#[from] ctrlc::Error),
}

impl Failure {
    /// Who reads our output has read enough: that is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdout { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Nobody can be told anything any more.
    pub(crate) fn is_output(&self) -> bool {
        matches!(self, Self::Stdout { .. })
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Model(error)
            | Self::Text(TextError::Generate(error))
            | Self::Conversation(ConversationError::Model(error))
            | Self::Moderation(ModerationError::Model(error))
            | Self::Score(
                ScoreError::Model(error)
                | ScoreError::Request { source: RequestError::Model(error), .. },
            ) => model_exit_code(error),
            Self::Moderation(ModerationError::Unreadable { .. } | ModerationError::Tie { .. }) => {
                FAILED
            }
            Self::NotAFile { .. }
            | Self::InUse { .. }
            | Self::ModelChanged
            | Self::Output { .. }
            | Self::Stdout { .. }
            | Self::Terminal(_)
            | Self::Threads(_)
            | Self::Interrupt(_) => FAILED,
            _ => BAD_INPUT,
        }
    }

    /// Writes the chain of causes to standard error.
    pub(crate) fn report(&self) {
        let mut message = format!("error: {self}\n");
        let mut cause = self.source();
        while let Some(error) = cause {
            message.push_str(&format!("  caused by: {error}\n"));
            cause = error.source();
        }
        // If nobody listens any more, the exit code still tells.
        let _ = io::stderr().write_all(message.as_bytes());
    }
}

/// What a person gave us is wrong, or else it did not work out for lack of memory.
fn model_exit_code(error: &ModelError) -> u8 {
    match error {
        ModelError::Weights {
            source:
                WeightsError::Matrix {
                    source: MatrixError::NotFinite { .. } | MatrixError::TooLarge { .. },
                    ..
                },
        } => BAD_INPUT,
        ModelError::Weights {
            source: WeightsError::Matrix { .. } | WeightsError::Write { .. },
        } => FAILED,
        ModelError::Config { .. }
        | ModelError::Weights { .. }
        | ModelError::Adapter { .. }
        | ModelError::EmptyPrompt
        | ModelError::UnknownToken { .. }
        | ModelError::ContextFull { .. }
        | ModelError::Sampler { .. }
        | ModelError::NotFinite { .. } => BAD_INPUT,
        _ => FAILED,
    }
}

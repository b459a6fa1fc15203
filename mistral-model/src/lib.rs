#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod batch;
#[cfg(feature = "tokenizer")]
pub mod chat;
pub mod config;
mod error;
pub mod generate;
mod history;
mod layer;
mod random;
mod scratch;
pub mod session;
#[cfg(feature = "tokenizer")]
pub mod tokenizer;
pub mod transformer;
pub mod weights;

pub use batch::Batch;
pub use config::{Config, ConfigError};
pub use error::ModelError;
pub use generate::{Generator, Sampler, SamplerOptions};
pub use mistral_attention::Window;
pub use mistral_core::kv::{KvFormat, UnknownKvFormat};
pub use mistral_core::ops::RopeLayout;
pub use mistral_core::{DType, WeightFormat, ceilings, half, ndarray};
pub use mistral_kvcache::RollingKvCache;
pub use scratch::Scratch;
pub use session::{HeavyHitters, Session, SessionOptions};
#[cfg(feature = "tokenizer")]
pub use tokenizer::Tokenizer;
pub use transformer::Transformer;
pub use weights::{Checkpoint, OpenOptions, WeightFormats, WeightsError};

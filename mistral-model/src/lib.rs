#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod batch;
#[cfg(feature = "tokenizer")]
pub mod chat;
pub mod config;
mod error;
mod fingerprint;
pub mod generate;
mod history;
mod layer;
mod low_rank;
mod probability;
mod random;
pub mod scheduler;
pub mod score;
mod scratch;
pub mod session;
#[cfg(feature = "tokenizer")]
pub mod tokenizer;
pub mod transformer;
pub mod weights;

pub use batch::{Batch, LogitsOf, Turn};
pub use config::{Config, ConfigError};
pub use error::ModelError;
pub use generate::{Generator, Sampler, SamplerOptions};
pub use mistral_attention::{AttentionConfig, AttentionError, Window};
pub use mistral_core::kv::{KvElement, KvFormat, UnknownKvFormat};
pub use mistral_core::ops::RopeLayout;
pub use mistral_core::simd::Level as SimdLevel;
pub use mistral_core::{DType, MatrixError, OpError, WeightFormat, ceilings, half, ndarray};
pub use mistral_kvcache::{CacheConfig, CacheError, RollingKvCache, SequenceId, SnapshotError};
pub use scheduler::{Request, Scheduler, SchedulerOptions};
pub use scratch::Scratch;
pub use session::{HeavyHitters, PrefixCache, Session, SessionOptions};
#[cfg(feature = "tokenizer")]
pub use tokenizer::Tokenizer;
pub use transformer::Transformer;
pub use weights::{Adapter, AdapterError, Checkpoint, OpenOptions, WeightFormats, WeightsError};

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cache;
mod config;
mod error;
mod layer;
pub mod prefill;
pub mod ring;
mod rows;
mod sequence;
mod staged;

pub use cache::RollingKvCache;
pub use config::{BLOCK, CacheConfig};
pub use error::CacheError;
pub use layer::LayerCache;
pub use mistral_core::kv::{KvError, KvSegment, KvView};
pub use mistral_core::{DType, Element, half};
pub use ndarray;
pub use prefill::ChunkPlan;
pub use sequence::SequenceId;
pub use staged::Staged;

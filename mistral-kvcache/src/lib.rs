#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod buffer;
mod cache;
mod chunk;
mod config;
mod error;
pub mod eviction;
mod layer;
mod pages;
pub mod prefill;
pub mod prefix;
mod rewind;
pub mod ring;
mod sequence;
mod size;
pub mod snapshot;
mod staged;

pub use batch::{SequenceChunk, StagedBatch};
pub use cache::RollingKvCache;
pub use config::CacheConfig;
pub use error::CacheError;
pub use eviction::{HeavyHitterCache, HeavyHitterConfig, HeavyHitterStep, Kept};
pub use layer::LayerCache;
pub use mistral_core::kv::{
    HeadView, Int8, KvElement, KvError, KvFormat, KvPage, KvSegment, KvView, PAGE, PANEL,
    UnknownKvFormat,
};
pub use mistral_core::{DType, Element, half};
pub use ndarray;
pub use prefill::ChunkPlan;
pub use prefix::{Match, PrefixIndex};
pub use sequence::SequenceId;
pub use snapshot::{SnapshotError, SnapshotHeader};
pub use staged::Staged;

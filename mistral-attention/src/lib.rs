#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod attention;
mod batch;
mod call;
mod config;
mod error;
mod kernel;
mod merge;
mod plan;
pub mod reference;
mod scratch;
mod slices;
pub mod window;

pub use attention::Attention;
pub use batch::BatchItem;
pub use call::Call;
pub use config::AttentionConfig;
pub use error::AttentionError;
pub use merge::merge;
pub use mistral_core::kv::{
    HeadView, Int8, KvElement, KvError, KvFormat, KvPage, KvSegment, KvView, PAGE, PANEL,
    UnknownKvFormat,
};
pub use mistral_core::simd::Level;
pub use mistral_core::{DType, Element, half, ndarray};
pub use scratch::Scratch;
pub use slices::SliceCall;
pub use window::Window;

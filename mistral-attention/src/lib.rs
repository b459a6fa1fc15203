#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod attention;
mod config;
mod error;
mod kernel;
mod plan;
pub mod reference;
pub mod window;

pub use attention::Attention;
pub use config::AttentionConfig;
pub use error::AttentionError;
pub use mistral_core::kv::{KvError, KvSegment, KvView};
pub use mistral_core::simd::Level;
pub use mistral_core::{DType, Element, half, ndarray};
pub use window::Window;

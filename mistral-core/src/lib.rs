#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod ceilings;
pub mod element;
mod error;
mod format;
pub mod kv;
pub mod matrix;
mod memory;
pub mod ops;
mod panel;
pub mod quant;
#[allow(unsafe_code)] // intrinsics, behind tokens that prove the CPU has them
pub mod simd;
mod storage;
pub mod threads;
pub mod tile;

pub use element::{DType, Element, UnknownDType};
pub use error::{MatrixError, OpError};
pub use format::{UnknownFormat, WeightFormat};
pub use half;
pub use matrix::{Matrix, SharedBytes};
pub use ndarray;

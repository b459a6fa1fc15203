#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod element;
mod error;
pub mod kv;
pub mod matrix;
pub mod ops;
#[allow(unsafe_code)] // intrinsics, behind tokens that prove the CPU has them
pub mod simd;
pub mod threads;
pub mod tile;

pub use element::{DType, Element, UnknownDType};
pub use error::{MatrixError, OpError};
pub use half;
pub use matrix::Matrix;
pub use ndarray;

//! What a call offers beside its output: sinks, soft-cap, log-sum-exp, parts, sums over keys, pages of
//! every format, batches, cancelling.
#![allow(clippy::unwrap_used)] // a test may panic

mod batch;
mod calls;
mod formula;
mod parts;
mod shapes;

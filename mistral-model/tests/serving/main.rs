//! Several sequences, or several tokens of one, in a pass: each has what it has alone.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod batch;
mod scheduler;
mod speculation;
mod speculation_draws;
mod tiny;

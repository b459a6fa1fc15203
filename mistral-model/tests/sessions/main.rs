//! What a session can do beside reading and writing: take tokens back, fork, take over beginnings,
//! go to disk, keep what is attended to. Whatever way leads to a text, its logits are the same.
#![allow(clippy::unwrap_used)] // a test may panic

mod cancel;
mod fork;
mod heavy_hitters;
mod reference;
mod reuse;
mod rewind;
mod snapshot;
mod tiny;
mod ways;
mod windows;

//! What a session can do beside reading and writing: taking tokens back, keeping what is attended
//! to. Whatever way leads to a text, its logits are the same.
#![allow(clippy::unwrap_used)] // a test may panic

mod fork;
mod heavy_hitters;
mod reference;
mod rewind;
mod tiny;
mod windows;

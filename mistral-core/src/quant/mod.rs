//! Weights in blocks of small integers with scales: ggml's formats, `w8a8` and `w4a8`, one file each.
//!
//! Here are the blocks as files hold them, how weights are rounded to them, and back; and the *tiles*
//! that the matmul reads, one block of each of sixteen rows, interleaved (`kernel.rs`). The plain
//! formats, `_0`, are rounded by ggml's rule to the byte. Those with scales of scales, `_k`, are
//! searched for: their bytes mean what ggml's mean, and their error is smaller. `w8a8` and `w4a8`
//! are ours: blocks so long that with VNNI nearly all the time goes into products of integers
//! (`octets.rs`). Weights of `w4a8` have 4 bits; steps and bases that are whole numbers of one scale make
//! 8-bit integers of them.
//!
//! Error as a share of the weights, both root mean squares, for weights of three distributions
//! (the last is Student's with four degrees of freedom, which has outliers):
//!
//! | format | bits a weight | gaussian | laplacian | heavy-tailed |
//! |---|---|---|---|---|
//! | `q8_0` | 8.5 | 0.54 % | 0.67 % | 0.73 % |
//! | `w8a8` | 8.125 | 0.70 % | 1.00 % | 1.26 % |
//! | `q6_k` | 6.5625 | 1.68 % | 2.06 % | 2.16 % |
//! | `q5_k` | 5.5 | 3.44 % | 4.07 % | 4.15 % |
//! | `q5_0` | 5.5 | 4.27 % | 5.36 % | 5.75 % |
//! | `q4_k` | 4.5 | 6.97 % | 8.24 % | 8.42 % |
//! | `w4a8` | 4.4375 | 7.10 % | 8.41 % | 8.67 % |
//! | `q4_0` | 4.5 | 8.59 % | 10.7 % | 11.6 % |

mod block;
pub(crate) mod kernel;
mod octets;
mod q4_0;
mod q4_k;
mod q5_0;
mod q5_k;
mod q6_k;
mod q8_0;
mod rounding;
mod search;
mod sub_scales;
mod w4a8;
mod w8a8;
pub(crate) mod width;

pub use block::Block;
pub use q4_0::Q4_0;
pub use q4_k::Q4K;
pub use q5_0::Q5_0;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use rounding::round_block;
pub use w4a8::W4A8;
pub use w8a8::W8A8;

pub(crate) use octets::OctetBlock;
pub(crate) use q4_0::Q4_0Tile;
pub(crate) use q4_k::Q4KTile;
pub(crate) use q5_0::Q5_0Tile;
pub(crate) use q5_k::Q5KTile;
pub(crate) use q6_k::Q6KTile;
pub(crate) use q8_0::Q8_0Tile;
pub(crate) use rounding::round_steps;

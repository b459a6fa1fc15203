//! The search for what the weights of a block with scales of scales become: steps, minima, codes.
//!
//! A weight of group `g` becomes `step[g] * code - minimum[g]`. Steps and minima are themselves
//! multiples, small integers, of two numbers that the block has. What is minimised is the squared
//! error, in which all weights count the same; it is that of the block as its bytes will be read.
//!
//! 1. For each group alone, grids of several widths about its range are tried. Each gives codes,
//!    and codes give the step and minimum of least squares; the best of those are kept.
//! 2. Steps and minima become multiples. The neighbours of the nearest are tried as well, because
//!    a finer step asks for another minimum.
//! 3. The block's two numbers become those of least squares for all its codes; then 2 once more.
//!
//! Steps 2 and 3 start several times, each with another multiple for the largest step.
//!
//! SIMD runs across groups: a lane is a group, and no sum crosses lanes before the last. Nothing
//! is fused, so the bytes are the same at every level.

mod affine;
mod columns;
mod octet;
mod symmetric;

pub(super) use affine::affine_block;
pub(super) use octet::octet_block;
pub(super) use symmetric::symmetric_block;

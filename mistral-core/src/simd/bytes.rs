//! Bytes and vectors as views of each other.

use super::Lanes;
use crate::element::Factor;

/// 64 bytes on a border of 64: what weight memory is made of.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// The bytes of some lines.
pub(crate) fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes without padding, and every byte is initialised.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

/// The bytes of some lines.
pub(crate) fn bytes_of_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; any byte may be written to a line.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// The bytes of some floats, in the byte order of this machine.
pub(crate) fn bytes_of_elements<F: Factor>(elements: &[F]) -> &[u8] {
    // SAFETY: `Factor` is sealed: floats and arrays of them, which have no padding.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Bytes as vectors of floats in the byte order of this machine. Empty if they do not lie on a
/// border of [`Lanes`].
pub(crate) fn lanes_of<F: Factor>(bytes: &[u8]) -> &[Lanes<F>] {
    // SAFETY: `Factor` is sealed: floats and arrays of them, for which every bit pattern is a value.
    let (before, lanes, _) = unsafe { bytes.align_to::<Lanes<F>>() };
    if before.is_empty() { lanes } else { &[] }
}

/// As [`lanes_of`].
pub(crate) fn lanes_of_mut<F: Factor>(bytes: &mut [u8]) -> &mut [Lanes<F>] {
    // SAFETY: as in `lanes_of`, and every value is initialised bytes.
    let (before, lanes, _) = unsafe { bytes.align_to_mut::<Lanes<F>>() };
    if before.is_empty() { lanes } else { &mut [] }
}

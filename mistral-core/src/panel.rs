//! Rows in, panels out, and back.

use half::bf16;

use crate::element::Element;
use crate::format::{FormatVisitor, WeightFormat};
use crate::quant::Block;
use crate::quant::kernel::Tile;
use crate::simd::{LANES, Lanes, lanes_of, lanes_of_mut};
use crate::threads;

/// Some rows of a matrix, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Weights to be rounded.
    Floats(&'a [f32]),
    /// Weights as files hold them.
    Encoded(&'a [u8]),
}

impl<'a> Rows<'a> {
    /// The first `n` of `total` rows, and the others.
    fn split_at(self, n: usize, total: usize) -> (Self, Self) {
        match self {
            Self::Floats(rows) => {
                let (a, b) = rows.split_at(rows.len() / total * n);
                (Self::Floats(a), Self::Floats(b))
            }
            Self::Encoded(rows) => {
                let (a, b) = rows.split_at(rows.len() / total * n);
                (Self::Encoded(a), Self::Encoded(b))
            }
        }
    }
}

/// Writes `rows` of `cols` weights into zeroed `panels`, on all threads.
pub(crate) fn encode(format: WeightFormat, cols: usize, rows: Rows<'_>, panels: &mut [u8]) {
    let n = match rows {
        Rows::Floats(weights) => weights.len() / cols,
        Rows::Encoded(bytes) => bytes.len() / format.row_bytes(cols).unwrap_or(1),
    };
    if n <= LANES {
        return format.visit(Encode { cols, rows, panel: panels });
    }
    let first = (n / 2).next_multiple_of(LANES);
    let (rows, rest) = rows.split_at(first, n);
    let (panels, others) = panels.split_at_mut(panels.len() / n.div_ceil(LANES) * (first / LANES));
    threads::join(|| encode(format, cols, rows, panels), || encode(format, cols, rest, others));
}

/// Writes up to sixteen rows into a panel.
struct Encode<'a> {
    cols: usize,
    rows: Rows<'a>,
    panel: &'a mut [u8],
}

impl FormatVisitor for Encode<'_> {
    type Output = ();

    fn dense<E: Element>(self) {
        let panel = lanes_of_mut::<E>(self.panel);
        match self.rows {
            Rows::Floats(rows) => interleave(panel, self.cols, rows, |x| E::from_f32(*x)),
            Rows::Encoded(bytes) if E::DTYPE.bytes() == 2 => {
                interleave(panel, self.cols, bytes.as_chunks::<2>().0, |b| E::from_le_bytes(b));
            }
            Rows::Encoded(bytes) => {
                interleave(panel, self.cols, bytes.as_chunks::<4>().0, |b| E::from_le_bytes(b));
            }
        }
    }

    fn pairs(self) {
        let panel = self.panel;
        Encode { cols: self.cols, rows: self.rows, panel: &mut *panel }.dense::<bf16>();
        // The product of a pair's second input is added first: it lies first.
        for pair in lanes_of_mut::<bf16>(panel).as_chunks_mut::<2>().0 {
            pair.swap(0, 1);
        }
    }

    fn quantised<T: Tile>(self) {
        let blocks = self.cols / T::Block::WEIGHTS;
        for (index, tile) in self.panel.chunks_exact_mut(T::BYTES).enumerate() {
            // Rows that are missing in the last panel are zeros.
            let mut packed = [T::Block::default(); LANES];
            match self.rows {
                Rows::Floats(rows) => {
                    let blocks = rows.chunks_exact(T::Block::WEIGHTS).skip(index).step_by(blocks);
                    for (block, weights) in packed.iter_mut().zip(blocks) {
                        *block = T::Block::quantise(weights);
                    }
                }
                Rows::Encoded(bytes) => {
                    let blocks = bytes.chunks_exact(T::Block::BYTES).skip(index).step_by(blocks);
                    for (block, bytes) in packed.iter_mut().zip(blocks) {
                        *block = T::Block::from_bytes(bytes);
                    }
                }
            }
            T::pack(&packed, tile);
        }
    }
}

/// Writes rows of `cols` elements into their lanes.
fn interleave<E: Element, T>(
    panel: &mut [Lanes<E>],
    cols: usize,
    rows: &[T],
    element: impl Fn(&T) -> E,
) {
    for (lane, row) in rows.chunks_exact(cols).enumerate() {
        for (lanes, value) in panel.iter_mut().zip(row) {
            lanes.0[lane] = element(value);
        }
    }
}

/// Copies one row of a panel, widened.
pub(crate) struct CopyRow<'a> {
    pub(crate) panel: &'a [u8],
    pub(crate) lane: usize,
    pub(crate) out: &'a mut [f32],
}

impl FormatVisitor for CopyRow<'_> {
    type Output = ();

    fn dense<E: Element>(self) {
        for (t, lanes) in self.out.iter_mut().zip(lanes_of::<E>(self.panel)) {
            *t = lanes.0[self.lane].to_f32();
        }
    }

    fn pairs(self) {
        let out = &mut *self.out;
        CopyRow { panel: self.panel, lane: self.lane, out }.dense::<bf16>();
        for pair in self.out.as_chunks_mut::<2>().0 {
            pair.swap(0, 1);
        }
    }

    fn quantised<T: Tile>(self) {
        let tiles = self.panel.chunks_exact(T::BYTES);
        for (out, tile) in self.out.chunks_exact_mut(T::Block::WEIGHTS).zip(tiles) {
            T::unpack(tile, self.lane).dequantise(out);
        }
    }
}

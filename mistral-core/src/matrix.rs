//! Weight matrices in the layout that the kernels read.

use std::ops::Range;

use ndarray::ArrayView2;

use crate::element::Element;
use crate::error::MatrixError;
use crate::format::WeightFormat;
use crate::memory::Memory;
use crate::panel::{CopyRow, Rows, encode};
use crate::simd::LANES;
use crate::storage::Storage;
use crate::threads;

pub use crate::storage::SharedBytes;

/// A weight matrix `(rows, cols)` = `(outputs, inputs)`, stored in the format it came in.
///
/// Sixteen rows form a *panel*: element `c` of all sixteen, then element `c + 1`. One vector
/// load gives sixteen outputs their weight for one input, and a panel is read front to back:
///
/// ```text
/// checkpoint, row by row        panel 0                          panel 1
/// w[0][0] w[0][1] w[0][2] ..    w[0][0] w[1][0] .. w[15][0]      w[16][0] w[17][0] ..
/// w[1][0] w[1][1] w[1][2] ..    w[0][1] w[1][1] .. w[15][1]      w[16][1] ..
/// ```
///
/// Block-quantised weights are interleaved likewise, a few at a time, with the scales of sixteen
/// rows side by side. The number of rows is rounded up to whole panels with zeros. A bf16
/// checkpoint stays bf16: there is never a widened copy.
///
/// ```
/// use mistral_core::{Matrix, WeightFormat, ndarray::array};
///
/// let weights = Matrix::from_array(array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]].view())?;
/// let mut row = [0.0; 3];
/// weights.row(1, &mut row)?;
/// assert_eq!(row, [4.0, 5.0, 6.0]);
/// assert_eq!((weights.rows(), weights.cols(), weights.format()), (2, 3, WeightFormat::F32));
/// # Ok::<(), mistral_core::MatrixError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    format: WeightFormat,
    storage: Storage,
}

impl Matrix {
    /// Copies an array `(rows, cols)`.
    ///
    /// # Errors
    ///
    /// - [`MatrixError::NoElements`]: a dimension is 0.
    /// - [`MatrixError::OutOfMemory`].
    pub fn from_array<E: Element>(weights: ArrayView2<'_, E>) -> Result<Self, MatrixError> {
        let (rows, cols) = weights.dim();
        Self::from_rows(rows, cols, E::DTYPE, |r, row| {
            for (t, s) in row.iter_mut().zip(weights.row(r)) {
                *t = s.to_f32();
            }
            Ok::<(), MatrixError>(())
        })
    }

    /// Makes a matrix of rows that `fill` writes as f32; they are rounded to `format`.
    ///
    /// `fill(r, row)` is called once for each `r` in rising order, with a row of zeros. Memory in
    /// use is the matrix and sixteen rows for each thread. Floats, `q8_0`, `q5_0` and `q4_0` are rounded by a fixed rule;
    /// the other formats search for the scales with the smallest squared error.
    ///
    /// # Errors
    ///
    /// - [`MatrixError::NoElements`]: a dimension is 0.
    /// - [`MatrixError::Columns`]: rows are no whole blocks of the format.
    /// - [`MatrixError::NotFinite`]: NaN or infinity, which blocks cannot hold; floats can.
    /// - [`MatrixError::TooLarge`]: a finite weight that f16 or bf16 would round to infinity.
    /// - [`MatrixError::OutOfMemory`].
    /// - Whatever `fill` returns.
    pub fn from_rows<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        format: impl Into<WeightFormat>,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        let format = format.into();
        let no_memory = MatrixError::OutOfMemory { rows, cols, format };
        let mut weights = Vec::new();
        Self::build(rows, cols, format, LANES * threads::count(), |range, panels| {
            zeroed(&mut weights, range.len() * cols).ok_or_else(|| no_memory.clone())?;
            for (r, row) in range.zip(weights.chunks_exact_mut(cols)) {
                fill(r, row)?;
                check(r, row, format)?;
            }
            encode(format, cols, Rows::Floats(&weights), panels);
            Ok(())
        })
    }

    /// Reads rows as files hold them, in order and some at a time: row after row, little-endian
    /// floats or blocks ([`WeightFormat::row_bytes`]).
    ///
    /// `fill` must fill the whole slice it gets. Memory in use is the matrix and sixteen rows for
    /// each thread.
    ///
    /// # Errors
    ///
    /// As [`Matrix::from_rows`]; the values of the weights are not looked at.
    pub fn read<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        format: impl Into<WeightFormat>,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        let format = format.into();
        let row_bytes = sizes(rows, cols, format)?.row;
        let no_memory = MatrixError::OutOfMemory { rows, cols, format };
        let mut bytes = Vec::new();
        Self::build(rows, cols, format, LANES * threads::count(), |range, panels| {
            zeroed(&mut bytes, range.len() * row_bytes).ok_or_else(|| no_memory.clone())?;
            fill(&mut bytes)?;
            encode(format, cols, Rows::Encoded(&bytes), panels);
            Ok(())
        })
    }

    /// Reads what [`Matrix::panels`] gave, in order and a megabyte or two at a time: nothing is
    /// rearranged.
    ///
    /// # Errors
    ///
    /// As [`Matrix::read`], and [`MatrixError::ByteOrder`].
    pub fn read_panels<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        format: impl Into<WeightFormat>,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        little_endian()?;
        let format = format.into();
        let row_bytes = sizes(rows, cols, format)?.row;
        let step = (READ / row_bytes).max(1).next_multiple_of(LANES);
        Self::build(rows, cols, format, step, |_, panels| fill(panels))
    }

    /// A matrix in memory that others own, such as a mapped file: `range` of `owner` holds what
    /// [`Matrix::panels`] gave. Nothing is copied.
    ///
    /// # Errors
    ///
    /// - [`MatrixError::NoElements`], [`MatrixError::Columns`], [`MatrixError::OutOfMemory`]: no
    ///   matrix has this shape.
    /// - [`MatrixError::Panels`]: the range is not one of the matrix's length inside the owner.
    /// - [`MatrixError::Alignment`]: it does not begin on a border of 32 bytes.
    /// - [`MatrixError::ByteOrder`].
    pub fn from_panels(
        rows: usize,
        cols: usize,
        format: impl Into<WeightFormat>,
        owner: SharedBytes,
        range: Range<usize>,
    ) -> Result<Self, MatrixError> {
        little_endian()?;
        let format = format.into();
        let expected = sizes(rows, cols, format)?.panels;
        let found = (*owner).as_ref().get(range.clone()).map_or(0, <[u8]>::len);
        if found != expected {
            return Err(MatrixError::Panels { rows, cols, format, found, expected });
        }
        let storage = Storage::shared(owner, range).ok_or(MatrixError::Alignment)?;
        Ok(Self { rows, cols, format, storage })
    }

    /// Calls `next` for the panels of `step` rows at a time, a multiple of [`LANES`].
    fn build<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        format: WeightFormat,
        step: usize,
        mut next: impl FnMut(Range<usize>, &mut [u8]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        let bytes = sizes(rows, cols, format)?;
        let mut memory = Memory::with_capacity(bytes.panels).ok_or(MatrixError::OutOfMemory {
            rows,
            cols,
            format,
        })?;
        for first in (0..rows).step_by(step) {
            let range = first..rows.min(first + step);
            let panels = memory.grow(range.len().next_multiple_of(LANES) * bytes.row);
            next(range, panels)?;
        }
        Ok(Self { rows, cols, format, storage: memory.into() })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the weights are stored.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes that the weights take in memory, padding included.
    pub fn bytes(&self) -> usize {
        self.panels().len()
    }

    /// What [`Matrix::bytes`] will say of a matrix of this shape; `None` if there can be none.
    pub fn bytes_for(rows: usize, cols: usize, format: impl Into<WeightFormat>) -> Option<usize> {
        sizes(rows, cols, format.into()).ok().map(|bytes| bytes.panels)
    }

    /// The weights in the kernels' layout, in the byte order of this machine.
    pub fn panels(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// Copies row `r`, widened to f32: the embedding of token `r`.
    ///
    /// # Errors
    ///
    /// - [`MatrixError::NoSuchRow`]: `r >= rows`.
    /// - [`MatrixError::RowLength`]: `out` has not `cols` elements.
    pub fn row(&self, r: usize, out: &mut [f32]) -> Result<(), MatrixError> {
        if r >= self.rows {
            return Err(MatrixError::NoSuchRow { row: r, rows: self.rows });
        }
        if out.len() != self.cols {
            return Err(MatrixError::RowLength { cols: self.cols, found: out.len() });
        }
        let bytes = self.bytes() / self.rows.div_ceil(LANES);
        let panel = &self.panels()[r / LANES * bytes..][..bytes];
        self.format.visit(CopyRow { panel, lane: r % LANES, out });
        Ok(())
    }
}

/// Bytes of panels that are asked for at once: few enough to stay in a cache while they are
/// written, and many enough for a file to be read without a copy in between.
const READ: usize = 1 << 20;

/// Bytes that a matrix takes.
struct Sizes {
    /// All panels in memory.
    panels: usize,
    /// One row, in a file and in its panel.
    row: usize,
}

fn sizes(rows: usize, cols: usize, format: WeightFormat) -> Result<Sizes, MatrixError> {
    if rows == 0 || cols == 0 {
        return Err(MatrixError::NoElements { rows, cols });
    }
    let block = format.block();
    if !cols.is_multiple_of(block) {
        return Err(MatrixError::Columns { cols, format, block });
    }
    // Interleaving moves weights, it adds none: a panel has the bytes of its rows.
    let row = format.row_bytes(cols);
    let panels = row
        .zip(rows.checked_next_multiple_of(LANES))
        .and_then(|(row, padded)| padded.checked_mul(row))
        .filter(|bytes| isize::try_from(*bytes).is_ok());
    let (row, panels) = row.zip(panels).ok_or(MatrixError::OutOfMemory { rows, cols, format })?;
    Ok(Sizes { panels, row })
}

/// Refuses weights of row `r` that a format cannot hold.
fn check(r: usize, row: &[f32], format: WeightFormat) -> Result<(), MatrixError> {
    // Bits of a number without its sign rise with its size.
    let size = |weight: &f32| weight.to_bits() & !(1 << 31);
    let infinity = f32::INFINITY.to_bits();
    let refused = match format {
        WeightFormat::F32 => return Ok(()),
        // From half a step above the largest number on, the nearest is infinity.
        WeightFormat::F16 => 65_520f32.to_bits()..infinity,
        WeightFormat::BF16 | WeightFormat::BF16xBF16 => 0x7f7f_8000..infinity,
        _ => infinity..1 << 31,
    };
    // Without an early end, so that it is done in vectors.
    if !row.iter().fold(false, |any, weight| any | refused.contains(&size(weight))) {
        return Ok(());
    }
    let col = row.iter().position(|weight| refused.contains(&size(weight))).unwrap_or_default();
    Err(if row[col].is_finite() {
        MatrixError::TooLarge { row: r, col, format }
    } else {
        MatrixError::NotFinite { row: r, col, format }
    })
}

/// Makes `values` as many zeros; `None` if there is no memory.
fn zeroed<T: Clone + Default>(values: &mut Vec<T>, len: usize) -> Option<()> {
    values.clear();
    values.try_reserve(len).ok()?;
    values.resize(len, T::default());
    Some(())
}

/// Panels in files are little-endian.
fn little_endian() -> Result<(), MatrixError> {
    if cfg!(target_endian = "little") { Ok(()) } else { Err(MatrixError::ByteOrder) }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use ndarray::Array2;

    use super::*;
    use crate::element::DType;

    #[test]
    fn bytes_read_equal_the_array_they_came_from() {
        // 37 rows: two whole panels and five rows of a third.
        let array = Array2::from_shape_fn((37, 5), |(r, c)| (r as f32 - 18.0) * 0.25 + c as f32);
        let mut bytes = array.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
        let read = Matrix::read(37, 5, DType::F16, |slice| {
            slice.fill_with(|| bytes.next().unwrap());
            Ok::<(), MatrixError>(())
        })
        .unwrap();
        assert!(bytes.next().is_none(), "all bytes were asked for");
        let copied = Matrix::from_array(array.mapv(f16::from_f32).view()).unwrap();
        let (mut a, mut b) = ([0.0; 5], [0.0; 5]);
        for r in 0..37 {
            read.row(r, &mut a).unwrap();
            copied.row(r, &mut b).unwrap();
            assert_eq!(a, b, "row {r}");
            assert_eq!(a.as_slice(), array.row(r).as_slice().unwrap(), "row {r}");
        }
    }

    #[test]
    fn rows_of_any_length_are_read_as_they_were_written() {
        // Longer than what is asked for at once.
        let cols = READ / 4 + 64;
        let fill = |r: usize, row: &mut [f32]| {
            row.iter_mut().enumerate().for_each(|(c, w)| *w = ((r * 31 + c) % 97) as f32);
            Ok::<(), MatrixError>(())
        };
        let written = Matrix::from_rows(3, cols, DType::F32, fill).unwrap();
        let mut rest = written.panels();
        let read = Matrix::read_panels(3, cols, DType::F32, |bytes| {
            let part;
            (part, rest) = rest.split_at(bytes.len());
            bytes.copy_from_slice(part);
            Ok::<(), MatrixError>(())
        });
        assert!(rest.is_empty(), "all bytes were asked for");
        assert_eq!(read.unwrap().panels(), written.panels());
    }

    #[test]
    fn memory_is_that_of_the_stored_format() {
        let w = Matrix::from_rows(40, 7, DType::BF16, |_, _| Ok::<(), MatrixError>(())).unwrap();
        assert_eq!(w.bytes(), 48 * 7 * 2);
        assert_eq!(Matrix::bytes_for(40, 7, DType::BF16), Some(w.bytes()));
        assert_eq!(Matrix::bytes_for(usize::MAX, 7, DType::BF16), None);
    }

    #[test]
    fn impossible_matrices_are_refused() {
        let fill = |_: usize, _: &mut [f32]| Ok::<(), MatrixError>(());
        assert_eq!(
            Matrix::from_rows(0, 3, DType::F32, fill).unwrap_err(),
            MatrixError::NoElements { rows: 0, cols: 3 }
        );
        let huge = usize::MAX / 4;
        assert_eq!(
            Matrix::from_rows(huge, 64, DType::F32, fill).unwrap_err(),
            MatrixError::OutOfMemory { rows: huge, cols: 64, format: WeightFormat::F32 }
        );
        let w = Matrix::from_rows(2, 3, DType::F32, fill).unwrap();
        assert_eq!(
            w.row(2, &mut [0.0; 3]).unwrap_err(),
            MatrixError::NoSuchRow { row: 2, rows: 2 }
        );
        assert_eq!(
            w.row(0, &mut [0.0; 4]).unwrap_err(),
            MatrixError::RowLength { cols: 3, found: 4 }
        );
    }
}

//! Weight matrices in the layout that the kernels read.

use half::{bf16, f16};
use ndarray::ArrayView2;

use crate::element::{DType, Element};
use crate::error::MatrixError;
use crate::simd::{LANES, Lanes};

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
/// The number of rows is rounded up to whole panels with zeros. A bf16 checkpoint stays bf16:
/// there is never a widened copy.
///
/// ```
/// use mistral_core::{Matrix, DType, ndarray::array};
///
/// let weights = Matrix::from_array(array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]].view())?;
/// let mut row = [0.0; 3];
/// weights.row(1, &mut row)?;
/// assert_eq!(row, [4.0, 5.0, 6.0]);
/// assert_eq!((weights.rows(), weights.cols(), weights.dtype()), (2, 3, DType::F32));
/// # Ok::<(), mistral_core::MatrixError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    storage: Storage,
}

/// Panels in one of the formats. A further format is a further arm.
#[derive(Debug, Clone)]
enum Storage {
    F32(Vec<Lanes<f32>>),
    F16(Vec<Lanes<f16>>),
    BF16(Vec<Lanes<bf16>>),
}

/// Something done with the panels of a matrix, generic over their format.
pub(crate) trait PanelVisitor {
    type Output;

    /// `panels` holds `cols` vectors for each panel.
    fn visit<E: Element>(self, panels: &[Lanes<E>]) -> Self::Output;
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

    /// Makes a matrix of rows that `fill` writes as f32; they are rounded to `dtype`.
    ///
    /// `fill(r, row)` is called once for each `r` in rising order.
    ///
    /// # Errors
    ///
    /// As [`Matrix::from_array`], and whatever `fill` returns.
    pub fn from_rows<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        dtype: DType,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        let mut storage = Storage::zeros(rows, cols, dtype)?;
        let mut panel = vec![0.0; cols * LANES.min(rows)];
        for first in (0..rows).step_by(LANES) {
            let panel = &mut panel[..cols * LANES.min(rows - first)];
            for (i, row) in panel.chunks_exact_mut(cols).enumerate() {
                fill(first + i, row)?;
            }
            match &mut storage {
                Storage::F32(panels) => interleave(panels, first, cols, panel, |x| *x),
                Storage::F16(panels) => {
                    interleave(panels, first, cols, panel, |x| f16::from_f32(*x))
                }
                Storage::BF16(panels) => {
                    interleave(panels, first, cols, panel, |x| bf16::from_f32(*x))
                }
            }
        }
        Ok(Self { rows, cols, storage })
    }

    /// Reads row-major little-endian elements, up to sixteen rows at a time and in order.
    ///
    /// `fill` must fill the whole slice it gets. Memory in use is the matrix and sixteen rows.
    ///
    /// # Errors
    ///
    /// As [`Matrix::from_array`], and whatever `fill` returns.
    pub fn read<Err: From<MatrixError>>(
        rows: usize,
        cols: usize,
        dtype: DType,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Err>,
    ) -> Result<Self, Err> {
        let mut storage = Storage::zeros(rows, cols, dtype)?;
        let row_bytes = cols * dtype.bytes();
        let mut bytes = vec![0; row_bytes * LANES.min(rows)];
        for first in (0..rows).step_by(LANES) {
            let n = LANES.min(rows - first);
            let bytes = &mut bytes[..n * row_bytes];
            fill(bytes)?;
            match &mut storage {
                Storage::F32(panels) => interleave_bytes(panels, first, cols, bytes),
                Storage::F16(panels) => interleave_bytes(panels, first, cols, bytes),
                Storage::BF16(panels) => interleave_bytes(panels, first, cols, bytes),
            }
        }
        Ok(Self { rows, cols, storage })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the elements.
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::F16(_) => DType::F16,
            Storage::BF16(_) => DType::BF16,
        }
    }

    /// Bytes that the elements take in memory, padding included.
    pub fn bytes(&self) -> usize {
        self.rows.div_ceil(LANES) * LANES * self.cols * self.dtype().bytes()
    }

    /// What [`Matrix::bytes`] will say of a matrix of this shape; `None` beyond `usize`.
    pub fn bytes_for(rows: usize, cols: usize, dtype: DType) -> Option<usize> {
        rows.checked_next_multiple_of(LANES)?.checked_mul(cols)?.checked_mul(dtype.bytes())
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
        self.visit(CopyRow { r, out });
        Ok(())
    }

    /// Hands the panels to `visitor` in their own format.
    pub(crate) fn visit<V: PanelVisitor>(&self, visitor: V) -> V::Output {
        match &self.storage {
            Storage::F32(panels) => visitor.visit(panels),
            Storage::F16(panels) => visitor.visit(panels),
            Storage::BF16(panels) => visitor.visit(panels),
        }
    }
}

impl Storage {
    fn zeros(rows: usize, cols: usize, dtype: DType) -> Result<Self, MatrixError> {
        if rows == 0 || cols == 0 {
            return Err(MatrixError::NoElements { rows, cols });
        }
        let out_of_memory = || MatrixError::OutOfMemory { rows, cols, dtype };
        let n = rows.div_ceil(LANES).checked_mul(cols).ok_or_else(out_of_memory)?;
        Ok(match dtype {
            DType::F32 => Self::F32(zeroed(n).ok_or_else(out_of_memory)?),
            DType::F16 => Self::F16(zeroed(n).ok_or_else(out_of_memory)?),
            DType::BF16 => Self::BF16(zeroed(n).ok_or_else(out_of_memory)?),
        })
    }
}

/// `n` zeroed vectors, or `None` where the allocator refuses.
fn zeroed<E: Element>(n: usize) -> Option<Vec<Lanes<E>>> {
    let mut panels = Vec::new();
    panels.try_reserve_exact(n).ok()?;
    panels.resize(n, Lanes::default());
    Some(panels)
}

/// Writes the rows from `first` on (at most one panel) into their lanes.
fn interleave<E: Element, T>(
    panels: &mut [Lanes<E>],
    first: usize,
    cols: usize,
    rows: &[T],
    element: impl Fn(&T) -> E,
) {
    let panel = panels.chunks_exact_mut(cols).nth(first / LANES).unwrap_or_default();
    for (lane, row) in rows.chunks_exact(cols).enumerate() {
        for (lanes, value) in panel.iter_mut().zip(row) {
            lanes.0[lane] = element(value);
        }
    }
}

/// [`interleave`] for little-endian elements.
fn interleave_bytes<E: Element>(panels: &mut [Lanes<E>], first: usize, cols: usize, bytes: &[u8]) {
    match E::DTYPE.bytes() {
        2 => interleave(panels, first, cols, bytes.as_chunks::<2>().0, |b| E::from_le_bytes(b)),
        _ => interleave(panels, first, cols, bytes.as_chunks::<4>().0, |b| E::from_le_bytes(b)),
    }
}

struct CopyRow<'a> {
    r: usize,
    out: &'a mut [f32],
}

impl PanelVisitor for CopyRow<'_> {
    type Output = ();

    fn visit<E: Element>(self, panels: &[Lanes<E>]) {
        let panel = panels.chunks(self.out.len()).nth(self.r / LANES).unwrap_or_default();
        for (t, lanes) in self.out.iter_mut().zip(panel) {
            *t = lanes.0[self.r % LANES].to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

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
            MatrixError::OutOfMemory { rows: huge, cols: 64, dtype: DType::F32 }
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

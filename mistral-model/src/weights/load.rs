//! From bytes in a file to matrices in the kernels' layout, tensor by tensor.

use std::io::Read;
use std::ops::Range;

use mistral_core::{Matrix, MatrixError, OpError, WeightFormat};

use super::archive::{Archive, io_error};
use super::error::WeightsError;
use super::merge::Sum;
use super::names::{Expected, Field, LayerField};
use super::problem::{missing, scale_name};
use super::tensor::{Stored, TensorInfo};
use super::{Checkpoint, GROUP, LoadProgress};
use crate::error::ModelError;
use crate::layer::Layer;
use crate::low_rank::Projection;
use crate::transformer::{Parts, Transformer};

/// Loads every tensor of a checked checkpoint.
pub(super) fn transformer(
    checkpoint: &Checkpoint<'_>,
    mut progress: impl FnMut(LoadProgress<'_>),
) -> Result<Transformer, ModelError> {
    let total = checkpoint.tensors().map(|(_, info)| info.bytes).sum();
    let mut bytes = 0;
    let mut slots = Slots::new(checkpoint.config.n_layers);
    for (wanted, index) in &checkpoint.tensors {
        let source = Source { checkpoint, archive: &checkpoint.archives[*index], wanted };
        slots.fill(&source)?;
        bytes += source.info()?.bytes;
        progress(LoadProgress { tensor: &wanted.name, bytes, total });
    }
    slots.finish(checkpoint)
}

/// One tensor in its archive.
pub(super) struct Source<'c, 'a> {
    pub(super) checkpoint: &'c Checkpoint<'a>,
    pub(super) archive: &'c Archive<'a>,
    pub(super) wanted: &'c Expected,
}

impl Source<'_, '_> {
    pub(super) fn info(&self) -> Result<&TensorInfo, WeightsError> {
        self.named(&self.wanted.name)
    }

    fn named(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.archive.tensors().get(name).ok_or_else(|| missing(name))
    }

    /// The matrix in the format that was asked for, or else in its own.
    pub(super) fn matrix(&self) -> Result<Matrix, WeightsError> {
        self.rows(0..self.wanted.shape.first().copied().unwrap_or(0))
    }

    /// Some rows of the matrix, from a border of panels to another or to the end. Nothing but
    /// them is read.
    pub(super) fn rows(&self, range: Range<usize>) -> Result<Matrix, WeightsError> {
        let &[all, cols] = self.wanted.shape.as_slice() else {
            return Err(self.out_of(MatrixError::NoElements { rows: 0, cols: 0 }.into()));
        };
        let (first, rows) = (range.start, range.len());
        let whole = self.info()?;
        let info = &whole.rows(range, all);
        let target = self.checkpoint.format(self.wanted.field, info);
        let mut merge = Sum::new(&self.checkpoint.adapters, self.wanted.field, cols)
            .map_err(|source| self.out_of(source.into()))?;
        let unchanged = merge.is_empty();
        let as_it_is = |format| unchanged && format == target;
        match info.stored {
            Stored::Panels(format) => {
                let panels = self.panels(info, [rows, cols], format)?;
                let keep = as_it_is(format);
                if keep { Ok(panels) } else { self.rounded(&panels, first, merge, target) }
            }
            Stored::Int8 => {
                let scales = self.named(&scale_name(&self.wanted.name))?;
                let scales = scales.rows(first..first + rows, all);
                let blocks = self.eight_bit([info, &scales], rows, cols)?;
                let keep = as_it_is(blocks.format());
                if keep { Ok(blocks) } else { self.rounded(&blocks, first, merge, target) }
            }
            Stored::Rows(format) if as_it_is(format) => self.archive.read(info, |reader| {
                Matrix::read(rows, cols, format, |bytes| self.exactly(reader, bytes))
                    .map_err(|failure| self.out_of(failure))
            }),
            Stored::Rows(format) => self.archive.read(info, |reader| {
                let mut bytes = vec![0; format.row_bytes(cols).unwrap_or(0)];
                Matrix::from_rows(rows, cols, target, |r, row| {
                    self.exactly(reader, &mut bytes)?;
                    format.decode(&bytes, row);
                    merge.add_to(first + r, row)
                })
                .map_err(|failure| self.out_of(failure.below(first)))
            }),
            Stored::Other(_) | Stored::Ggml(_) => Err(missing(&self.wanted.name)),
        }
    }

    /// Panels as they lie in the file: shared with the map, or read.
    fn panels(
        &self,
        info: &TensorInfo,
        [rows, cols]: [usize; 2],
        format: WeightFormat,
    ) -> Result<Matrix, WeightsError> {
        if let Some((owner, range)) = self.archive.shared(info) {
            match Matrix::from_panels(rows, cols, format, owner, range) {
                // A writer that does not align the tensors costs a copy, no more.
                Err(MatrixError::Alignment) => {}
                result => return result.map_err(|source| self.out_of(source.into())),
            }
        }
        self.archive.read(info, |reader| {
            Matrix::read_panels(rows, cols, format, |bytes| self.exactly(reader, bytes))
                .map_err(|failure| self.out_of(failure))
        })
    }

    /// The same weights, which are the rows from `first` on, with what is merged into them, rounded
    /// to another format.
    fn rounded(
        &self,
        from: &Matrix,
        first: usize,
        mut merge: Sum<'_>,
        target: WeightFormat,
    ) -> Result<Matrix, WeightsError> {
        Matrix::from_rows(from.rows(), from.cols(), target, |r, row| {
            from.row(r, row)?;
            merge.add_to(first + r, row)
        })
        .map_err(|failure| self.out_of(failure.below(first)))
    }

    /// Signed bytes with a scale for each 32 are blocks of `q8_0`, kept in two tensors.
    fn eight_bit(
        &self,
        [info, scales]: [&TensorInfo; 2],
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, WeightsError> {
        let scales = self.archive.read(scales, |reader| {
            let mut bytes = vec![0; rows * (cols / GROUP) * 2];
            self.exactly(reader, &mut bytes).map_err(|error| self.out_of(error))?;
            Ok(bytes)
        })?;
        let mut scales = scales.as_chunks::<2>().0.iter();
        self.archive.read(info, |reader| {
            let mut integers = Vec::new();
            Matrix::read(rows, cols, WeightFormat::Q8_0, |blocks| {
                let blocks = blocks.as_chunks_mut::<{ GROUP + 2 }>().0;
                integers.resize(blocks.len() * GROUP, 0);
                self.exactly(reader, &mut integers)?;
                let groups = integers.as_chunks::<GROUP>().0.iter().zip(&mut scales);
                for (block, (integers, scale)) in blocks.iter_mut().zip(groups) {
                    let (head, codes) = block.split_at_mut(2);
                    head.copy_from_slice(scale);
                    codes.copy_from_slice(integers);
                }
                Ok(())
            })
            .map_err(|error| self.out_of(error))
        })
    }

    /// A norm's weights, as f32.
    pub(super) fn vector(&self) -> Result<Vec<f32>, WeightsError> {
        let info = self.info()?;
        let Stored::Rows(format) = info.stored else {
            return Err(missing(&self.wanted.name));
        };
        let mut bytes = vec![0; info.bytes as usize];
        let mut weights = vec![0.0; self.wanted.shape.iter().product()];
        self.archive.read(info, |reader| {
            self.exactly(reader, &mut bytes).map_err(|error| self.out_of(error))
        })?;
        format.decode(&bytes, &mut weights);
        Ok(weights)
    }

    fn exactly(&self, reader: &mut dyn Read, bytes: &mut [u8]) -> Result<(), Failure> {
        reader.read_exact(bytes).map_err(Failure::Io)
    }

    fn out_of(&self, failure: Failure) -> WeightsError {
        match failure {
            Failure::Io(source) => io_error(self.archive.path(), source),
            Failure::Matrix(source) => {
                WeightsError::Matrix { tensor: self.wanted.name.clone(), source }
            }
            Failure::Merge(source) => {
                WeightsError::Merge { tensor: self.wanted.name.clone(), source }
            }
        }
    }
}

/// What making a matrix may stop for.
pub(super) enum Failure {
    Io(std::io::Error),
    Matrix(MatrixError),
    Merge(OpError),
}

impl Failure {
    /// The same in the matrix of which the first rows were left out.
    fn below(self, rows: usize) -> Self {
        match self {
            Self::Matrix(MatrixError::NotFinite { row, col, format }) => {
                Self::Matrix(MatrixError::NotFinite { row: rows + row, col, format })
            }
            Self::Matrix(MatrixError::TooLarge { row, col, format }) => {
                Self::Matrix(MatrixError::TooLarge { row: rows + row, col, format })
            }
            other => other,
        }
    }
}

impl From<MatrixError> for Failure {
    fn from(source: MatrixError) -> Self {
        Self::Matrix(source)
    }
}

impl From<OpError> for Failure {
    fn from(source: OpError) -> Self {
        Self::Merge(source)
    }
}

/// A layer whose tensors come one by one.
#[derive(Default)]
struct LayerSlots {
    attention_norm: Option<Vec<f32>>,
    feed_forward_norm: Option<Vec<f32>>,
    /// By [`Projection`].
    matrices: [Option<Matrix>; Projection::COUNT],
}

/// A model whose tensors come one by one.
struct Slots {
    embedding: Option<Matrix>,
    layers: Vec<LayerSlots>,
    norm: Option<Vec<f32>>,
    output: Option<Matrix>,
}

impl Slots {
    fn new(n_layers: usize) -> Self {
        let layers = (0..n_layers).map(|_| LayerSlots::default()).collect();
        Self { embedding: None, layers, norm: None, output: None }
    }

    fn fill(&mut self, source: &Source<'_, '_>) -> Result<(), WeightsError> {
        match source.wanted.field {
            Field::Embedding => self.embedding = Some(source.matrix()?),
            Field::Norm => self.norm = Some(source.vector()?),
            Field::Output => self.output = Some(source.matrix()?),
            Field::Layer(index, field) => {
                let layer = &mut self.layers[index];
                match field.projection() {
                    Some(projection) => {
                        layer.matrices[projection as usize] = Some(source.matrix()?);
                    }
                    None if field == LayerField::AttentionNorm => {
                        layer.attention_norm = Some(source.vector()?);
                    }
                    None => layer.feed_forward_norm = Some(source.vector()?),
                }
            }
        }
        Ok(())
    }

    /// The whole model. `Checkpoint::check` has seen that every tensor is there.
    fn finish(self, checkpoint: &Checkpoint<'_>) -> Result<Transformer, ModelError> {
        let layer = |slots: LayerSlots| {
            let [Some(q), Some(k), Some(v), Some(o), Some(gate), Some(up), Some(down)] =
                slots.matrices
            else {
                return Err(missing("a matrix of a layer"));
            };
            Ok(Layer {
                attention_norm: slots.attention_norm.ok_or_else(|| missing("a norm"))?,
                q_proj: q,
                k_proj: k,
                v_proj: v,
                o_proj: o,
                feed_forward_norm: slots.feed_forward_norm.ok_or_else(|| missing("a norm"))?,
                gate_proj: gate,
                up_proj: up,
                down_proj: down,
            })
        };
        Transformer::from_parts(Parts {
            config: checkpoint.config.clone(),
            embedding: self.embedding.ok_or_else(|| missing("the embedding"))?,
            layers: self.layers.into_iter().map(layer).collect::<Result<_, _>>()?,
            norm: self.norm.ok_or_else(|| missing("the last norm"))?,
            output: self.output,
        })
    }
}

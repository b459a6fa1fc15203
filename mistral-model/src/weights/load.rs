//! From bytes in a file to matrices in the kernels' layout, tensor by tensor.

use std::io::Read;

use mistral_core::half::f16;
use mistral_core::{DType, Matrix, MatrixError};
use safetensors::Dtype;

use super::archive::{Archive, TensorInfo, io_error};
use super::error::WeightsError;
use super::names::{Expected, Field, LayerField};
use super::{Checkpoint, GROUP, LoadProgress, scale_name};
use crate::error::ModelError;
use crate::layer::Layer;
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
        let source = Source { archive: &checkpoint.archives[*index], wanted };
        slots.fill(&source)?;
        bytes += source.info()?.bytes;
        progress(LoadProgress { tensor: &wanted.name, bytes, total });
    }
    slots.finish(checkpoint)
}

/// The format in memory of a matrix that is `stored` so: 8-bit integers are widened, see
/// [`Source::eight_bit`].
pub(super) fn dtype(stored: Dtype) -> DType {
    match stored {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => DType::F32,
    }
}

/// One tensor in its archive.
struct Source<'c, 'a> {
    archive: &'c Archive<'a>,
    wanted: &'c Expected,
}

impl Source<'_, '_> {
    fn info(&self) -> Result<&TensorInfo, WeightsError> {
        self.named(&self.wanted.name)
    }

    fn named(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.archive.tensors().get(name).ok_or_else(|| WeightsError::Tensors {
            problems: vec![super::TensorProblem::Missing { tensor: name.to_owned() }],
        })
    }

    fn matrix(&self) -> Result<Matrix, WeightsError> {
        let info = self.info()?;
        let (rows, cols) = match self.wanted.shape.as_slice() {
            [rows, cols] => (*rows, *cols),
            other => (1, other.iter().product()),
        };
        match info.dtype {
            Dtype::I8 => self.eight_bit(info, rows, cols),
            stored => self.archive.read(info, |reader| {
                Matrix::read(rows, cols, dtype(stored), |bytes| self.exactly(reader, bytes))
                    .map_err(|error| self.out_of(error))
            }),
        }
    }

    /// `scale * integer` for each group of 32: exact in f32 (11 and 8 significant bits).
    fn eight_bit(
        &self,
        info: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, WeightsError> {
        let scales = self.named(&scale_name(&self.wanted.name))?;
        let scales = self.archive.read(scales, |reader| {
            let mut bytes = vec![0; rows * (cols / GROUP) * 2];
            self.exactly(reader, &mut bytes).map_err(|error| self.out_of(error))?;
            Ok(bytes)
        })?;
        let (scales, _) = scales.as_chunks::<2>();
        self.archive.read(info, |reader| {
            let mut integers = vec![0; cols];
            Matrix::from_rows(rows, cols, DType::F32, |r, row| {
                self.exactly(reader, &mut integers)?;
                let scales = scales.iter().skip(r * (cols / GROUP));
                let groups = row.chunks_mut(GROUP).zip(integers.chunks(GROUP));
                for ((row, integers), scale) in groups.zip(scales) {
                    let scale = f16::from_le_bytes(*scale).to_f32();
                    for (weight, integer) in row.iter_mut().zip(integers) {
                        *weight = scale * f32::from(*integer as i8);
                    }
                }
                Ok(())
            })
            .map_err(|error| self.out_of(error))
        })
    }

    /// A norm's weights, as f32.
    fn vector(&self) -> Result<Vec<f32>, WeightsError> {
        let matrix = self.matrix()?;
        let mut row = vec![0.0; matrix.cols()];
        matrix.row(0, &mut row).map_err(|source| self.out_of(Failure::Matrix(source)))?;
        Ok(row)
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
        }
    }
}

/// What `Matrix::read` may stop for.
enum Failure {
    Io(std::io::Error),
    Matrix(MatrixError),
}

impl From<MatrixError> for Failure {
    fn from(source: MatrixError) -> Self {
        Self::Matrix(source)
    }
}

/// A layer whose tensors come one by one.
#[derive(Default)]
struct LayerSlots {
    attention_norm: Option<Vec<f32>>,
    feed_forward_norm: Option<Vec<f32>>,
    /// q, k, v, o, gate, up, down.
    matrices: [Option<Matrix>; 7],
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
                let slot = match field {
                    LayerField::AttentionNorm => {
                        layer.attention_norm = Some(source.vector()?);
                        return Ok(());
                    }
                    LayerField::FeedForwardNorm => {
                        layer.feed_forward_norm = Some(source.vector()?);
                        return Ok(());
                    }
                    LayerField::Q => 0,
                    LayerField::K => 1,
                    LayerField::V => 2,
                    LayerField::O => 3,
                    LayerField::Gate => 4,
                    LayerField::Up => 5,
                    LayerField::Down => 6,
                };
                layer.matrices[slot] = Some(source.matrix()?);
            }
        }
        Ok(())
    }

    /// The whole model. `Checkpoint::check` has seen that every tensor is there.
    fn finish(self, checkpoint: &Checkpoint<'_>) -> Result<Transformer, ModelError> {
        let missing = |tensor: &str| WeightsError::Tensors {
            problems: vec![super::TensorProblem::Missing { tensor: tensor.to_owned() }],
        };
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

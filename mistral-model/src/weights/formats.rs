//! Which format each matrix of a model is stored in.

use mistral_core::{DType, WeightFormat};

use super::names::Field;
use crate::config::Config;

/// The formats of a model's matrices. Norms are always f32.
///
/// A single format stands for a recommended mix: the projections, which are nearly all weights, have
/// the format itself, and where that has fewer than 8 bits, the embedding and the output matrix have
/// more. They are few and errors in them are seen most.
///
/// | format | embedding and output |
/// |---|---|
/// | `f32`, `f16`, `bf16`, `bf16xbf16`, `q8_0`, `w8a8` | the same |
/// | `q6_k`, `q5_k`, `q4_k`, `w4a8` | `q6_k` |
/// | `q5_0`, `q4_0` | `q8_0` |
///
/// ```
/// use mistral_model::{WeightFormat, WeightFormats};
///
/// let mix = WeightFormats::from(WeightFormat::Q4K);
/// assert_eq!((mix.projections, mix.output), (WeightFormat::Q4K, WeightFormat::Q6K));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormats {
    /// The seven matrices of each layer.
    pub projections: WeightFormat,
    /// The input embedding, and the output matrix where the two are one.
    pub embedding: WeightFormat,
    /// The output matrix.
    pub output: WeightFormat,
}

impl WeightFormats {
    /// One format for all matrices.
    pub fn uniform(format: impl Into<WeightFormat>) -> Self {
        let format = format.into();
        Self { projections: format, embedding: format, output: format }
    }

    /// The format of one matrix.
    pub(super) fn of(self, field: Field) -> WeightFormat {
        match field {
            Field::Embedding => self.embedding,
            Field::Output => self.output,
            Field::Layer(..) | Field::Norm => self.projections,
        }
    }
}

impl From<DType> for WeightFormats {
    fn from(dtype: DType) -> Self {
        WeightFormat::from(dtype).into()
    }
}

impl From<WeightFormat> for WeightFormats {
    fn from(projections: WeightFormat) -> Self {
        let others = match projections {
            WeightFormat::Q6K | WeightFormat::Q5K | WeightFormat::Q4K | WeightFormat::W4A8 => {
                WeightFormat::Q6K
            }
            WeightFormat::Q5_0 | WeightFormat::Q4_0 => WeightFormat::Q8_0,
            same => same,
        };
        Self { projections, embedding: others, output: others }
    }
}

impl Config {
    /// Bytes that all weights take in memory; norms are f32. `None` beyond `usize`, or where rows
    /// are no whole blocks of a format.
    ///
    /// ```
    /// use mistral_model::{Config, WeightFormat};
    ///
    /// let config = Config::mistral_7b_v01();
    /// assert_eq!(config.weight_bytes(WeightFormat::Q8_0), Some(7_695_122_432));
    /// ```
    pub fn weight_bytes(&self, formats: impl Into<WeightFormats>) -> Option<usize> {
        let formats = formats.into();
        super::names::expected(self, super::Naming::HuggingFace).iter().try_fold(
            0,
            |sum: usize, tensor| {
                sum.checked_add(super::names::bytes(&tensor.shape, formats.of(tensor.field))?)
            },
        )
    }
}

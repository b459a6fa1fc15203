//! Random weights: a model of any shape for tests, benches and examples, without a download.

use mistral_core::{Matrix, MatrixError, WeightFormat, threads};

use crate::config::Config;
use crate::error::ModelError;
use crate::generate::Xoshiro256;
use crate::layer::Layer;
use crate::transformer::Parts;
use crate::weights::WeightFormats;

/// Different blocks in a matrix of a block format.
const BLOCKS: usize = 2048;

/// The parts of a model with random weights.
pub(crate) fn parts(
    config: &Config,
    formats: WeightFormats,
    seed: u64,
) -> Result<Parts, ModelError> {
    // Every tensor has a stream of its own, so that they can be made in any order.
    let tensors = Tensors { format: formats.projections, seed };
    let embedding = |id, format| Tensors { format, seed }.matrix(id, config.vocab_size, config.dim);
    let (input, output) = threads::join(
        || embedding(0, formats.embedding),
        || (!config.tied_embeddings).then(|| embedding(1, formats.output)).transpose(),
    );
    let (input, output) = (input?, output?);
    Ok(Parts {
        embedding: input,
        layers: layers(config, &tensors, 0, config.n_layers)?,
        norm: tensors.norm(2, config.dim),
        output,
        config: config.clone(),
    })
}

/// Layers `first..first + n`, on all threads.
fn layers(
    config: &Config,
    tensors: &Tensors,
    first: usize,
    n: usize,
) -> Result<Vec<Layer>, MatrixError> {
    if n <= 1 {
        return (first..first + n).map(|index| layer(config, tensors, index)).collect();
    }
    let half = n / 2;
    let (left, right) = threads::join(
        || layers(config, tensors, first, half),
        || layers(config, tensors, first + half, n - half),
    );
    let mut all = left?;
    all.extend(right?);
    Ok(all)
}

fn layer(config: &Config, tensors: &Tensors, index: usize) -> Result<Layer, MatrixError> {
    let (dim, hidden) = (config.dim, config.hidden_dim);
    let q = config.n_heads * config.head_dim;
    let kv = config.n_kv_heads * config.head_dim;
    let id = |tensor: u64| 16 * (index as u64 + 1) + tensor;
    Ok(Layer {
        attention_norm: tensors.norm(id(0), dim),
        q_proj: tensors.matrix(id(1), q, dim)?,
        k_proj: tensors.matrix(id(2), kv, dim)?,
        v_proj: tensors.matrix(id(3), kv, dim)?,
        o_proj: tensors.matrix(id(4), dim, q)?,
        feed_forward_norm: tensors.norm(id(5), dim),
        gate_proj: tensors.matrix(id(6), hidden, dim)?,
        up_proj: tensors.matrix(id(7), hidden, dim)?,
        down_proj: tensors.matrix(id(8), dim, hidden)?,
    })
}

struct Tensors {
    format: WeightFormat,
    seed: u64,
}

impl Tensors {
    fn stream(&self, id: u64) -> impl FnMut() -> f32 {
        let mut rng = Xoshiro256::from_seed(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(id));
        let mut pair = None;
        // Two uniform numbers in -1..1 of 24 bits from each draw.
        move || {
            let bits = pair.take().unwrap_or_else(|| {
                let bits = rng.next_u64();
                pair = Some((bits >> 8) as u32);
                (bits >> 40) as u32
            });
            (bits & 0x00ff_ffff) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    /// Uniform with variance `1 / cols`: a unit vector in gives numbers of order one out.
    fn matrix(&self, id: u64, rows: usize, cols: usize) -> Result<Matrix, MatrixError> {
        let mut next = self.stream(id);
        let scale = (3.0 / cols as f32).sqrt();
        let block = self.format.block();
        if block == 1 {
            return Matrix::from_rows(rows, cols, self.format, |_, row| {
                row.fill_with(|| scale * next());
                Ok(())
            });
        }
        let weights: Vec<f32> =
            std::iter::repeat_with(|| scale * next()).take(BLOCKS * block).collect();
        let bytes = self.format.row_bytes(block).unwrap_or(1);
        let mut pool = vec![0; BLOCKS * bytes];
        self.format.encode(&weights, &mut pool);
        Matrix::read(rows, cols, self.format, |rows| {
            for block in rows.chunks_exact_mut(bytes) {
                let index = ((next() + 1.0) * 0.5 * BLOCKS as f32) as usize;
                block.copy_from_slice(&pool[index * bytes..][..bytes]);
            }
            Ok(())
        })
    }

    /// Around one.
    fn norm(&self, id: u64, dim: usize) -> Vec<f32> {
        let mut next = self.stream(id);
        (0..dim).map(|_| 1.0 + 0.25 * next()).collect()
    }
}

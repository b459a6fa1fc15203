//! Which model it is, without reading all of it.

use std::iter;

use mistral_core::Matrix;
use mistral_core::ops::RopeLayout;
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::error::ModelError;
use crate::low_rank::{LowRank, Projection, Target};
use crate::transformer::Transformer;
use crate::weights::Adapter;

/// What is hashed first: another choice of samples wants another number here.
const VERSION: &[u8] = b"mistral-model fingerprint 1";
const ADAPTER_VERSION: &[u8] = b"mistral-model adapter fingerprint 1";

impl Transformer {
    /// A SHA-256 of the model: of its sizes and constants, of all norms, and of a row of each
    /// matrix as it is in memory.
    ///
    /// Training changes every matrix that it touches nearly everywhere, and rounding to another
    /// format does too: models with the same fingerprint give the same keys and values. Which rows
    /// are read is known, so it is no protection against forgery. Windows and `context_len`, which
    /// a snapshot names by themselves, are not part of it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Matrix`]: cannot happen, for the rows are those that there are.
    ///
    /// # Cost
    ///
    /// A row of 16 is read: for 7B in bf16 some 40 MB, in a few hundredths of a second.
    pub fn fingerprint(&self) -> Result<[u8; 32], ModelError> {
        let mut print = Fingerprint::new(self.config());
        let (embedding, output) = self.ends();
        print.add_matrix(embedding)?;
        for layer in self.layers() {
            print.add_norm(&layer.attention_norm);
            print.add_norm(&layer.feed_forward_norm);
            layer.matrices().into_iter().try_for_each(|matrix| print.add_matrix(matrix))?;
        }
        print.add_norm(self.norm());
        if let Some(output) = output {
            print.add_matrix(output)?;
        }
        Ok(print.finish())
    }
}

/// What is hashed of a model: its parts in the order of [`Transformer::fingerprint`].
pub(crate) struct Fingerprint {
    hash: Sha256,
    /// Those that were added.
    matrices: usize,
    row: Vec<f32>,
}

impl Fingerprint {
    pub(crate) fn new(config: &Config) -> Self {
        let mut hash = Sha256::new_with_prefix(VERSION);
        add_config(&mut hash, config);
        Self { hash, matrices: 0, row: Vec::new() }
    }

    /// Which row of the next matrix is hashed.
    pub(crate) fn next_row(&self, rows: usize) -> usize {
        // Another row of each matrix: where it lies shall not matter.
        self.matrices * 7 % rows.max(1)
    }

    fn add_matrix(&mut self, matrix: &Matrix) -> Result<(), ModelError> {
        self.add_rows(matrix, 0, matrix.rows())
    }

    /// Adds a matrix of `rows` rows, of which `part` holds those from `first` on, the
    /// [`next_row`](Self::next_row) among them.
    pub(crate) fn add_rows(
        &mut self,
        part: &Matrix,
        first: usize,
        rows: usize,
    ) -> Result<(), ModelError> {
        self.row.resize(part.cols(), 0.0);
        part.row(self.next_row(rows) - first, &mut self.row)?;
        self.matrices += 1;
        self.hash.update(format!("{} {rows} {}", part.format(), part.cols()));
        add_floats(&mut self.hash, &self.row);
        Ok(())
    }

    pub(crate) fn add_norm(&mut self, weights: &[f32]) {
        add_floats(&mut self.hash, weights);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}

impl Adapter {
    /// A SHA-256 of the adapter: of every weight and factor with its place, as they are in memory.
    /// Adapters with the same fingerprint add the same.
    ///
    /// # Errors
    ///
    /// [`ModelError::Matrix`]: cannot happen, for the rows are those that there are.
    ///
    /// # Cost
    ///
    /// All weights are read: for rank 16 on all of a 7B model 160 MB, in a few tenths of a second.
    pub fn fingerprint(&self) -> Result<[u8; 32], ModelError> {
        let mut hash = Sha256::new_with_prefix(ADAPTER_VERSION);
        let layer = |layer| Projection::ALL.map(|projection| Target::Layer(layer, projection));
        let places = iter::once(Target::Output).chain((0..).flat_map(layer)).enumerate();
        let addends = places.filter_map(|(place, target)| Some((place, self.addend(target)?)));
        let mut row = Vec::new();
        for (place, LowRank { down, up, scale }) in addends.take(self.projections()) {
            hash.update((place as u64).to_le_bytes());
            hash.update(scale.to_le_bytes());
            for matrix in [down, up] {
                hash.update(format!("{} {}", matrix.rows(), matrix.cols()));
                row.resize(matrix.cols(), 0.0);
                for index in 0..matrix.rows() {
                    matrix.row(index, &mut row)?;
                    add_floats(&mut hash, &row);
                }
            }
        }
        Ok(hash.finalize().into())
    }
}

fn add_config(hash: &mut Sha256, config: &Config) {
    for size in [
        config.dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        config.hidden_dim,
        config.vocab_size,
    ] {
        hash.update((size as u64).to_le_bytes());
    }
    hash.update(config.norm_eps.to_le_bytes());
    hash.update(config.rope_theta.to_le_bytes());
    // The names are part of snapshots on disk: they stay.
    hash.update(match config.rope_layout {
        RopeLayout::HalfSplit => "HalfSplit",
        RopeLayout::Interleaved => "Interleaved",
    });
}

fn add_floats(hash: &mut Sha256, values: &[f32]) {
    for value in values {
        hash.update(value.to_le_bytes());
    }
}

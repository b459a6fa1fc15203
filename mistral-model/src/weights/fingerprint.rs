//! Which model the files hold, without reading all of them.

use mistral_core::simd::LANES as PANEL;

use super::Checkpoint;
use super::load::Source;
use super::names::{Field, LAYER};
use super::problem::missing;
use crate::error::ModelError;
use crate::fingerprint::Fingerprint;

impl Checkpoint<'_> {
    /// The [`fingerprint`](crate::Transformer::fingerprint) that the model will have once it is
    /// loaded, with the format of its weights and the adapters merged into them.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), for the rows that are read.
    ///
    /// # Cost
    ///
    /// Sixteen rows of each matrix are read: for 7B in bf16 some 40 MB.
    pub fn fingerprint(&self) -> Result<[u8; 32], ModelError> {
        let mut print = Fingerprint::new(&self.config);
        self.add(&mut print, Field::Embedding)?;
        for layer in 0..self.config.n_layers {
            // Norms come first there.
            let mut fields = LAYER.map(|(field, _)| field);
            fields.sort_by_key(|field| field.projection().is_some());
            fields.into_iter().try_for_each(|f| self.add(&mut print, Field::Layer(layer, f)))?;
        }
        self.add(&mut print, Field::Norm)?;
        if !self.config.tied_embeddings {
            self.add(&mut print, Field::Output)?;
        }
        Ok(print.finish())
    }

    fn add(&self, print: &mut Fingerprint, field: Field) -> Result<(), ModelError> {
        let found = self.tensors.iter().find(|(wanted, _)| wanted.field == field);
        // `Checkpoint::check` has seen that every tensor is there.
        let (wanted, index) = found.ok_or_else(|| missing(&format!("{field:?}")))?;
        let source = Source { checkpoint: self, archive: &self.archives[*index], wanted };
        match wanted.shape.as_slice() {
            &[rows, _] => {
                let first = print.next_row(rows) / PANEL * PANEL;
                let part = source.rows(first..rows.min(first + PANEL))?;
                print.add_rows(&part, first, rows)?;
            }
            _ => print.add_norm(&source.vector()?),
        }
        Ok(())
    }
}

//! From a checkpoint to one safetensors file in the kernels' layout, tensor by tensor.

use std::io::Write;

use mistral_core::WeightFormat;
use serde_json::{Map, Value, json};

use super::error::WeightsError;
use super::load::Source;
use super::names::{self, Expected, expected};
use super::{Checkpoint, LoadProgress, Naming, panels};
use crate::error::ModelError;

/// Tensors begin on a border of so many bytes, so that a mapped file can be computed with.
const ALIGNMENT: usize = 64;

/// A tensor that is to be written.
struct Target<'c> {
    /// Its name in Hugging Face's files.
    name: String,
    /// Where it is read from.
    source: Source<'c, 'c>,
    wanted: &'c Expected,
    /// The format of a matrix; `None` for a norm.
    format: Option<WeightFormat>,
    bytes: usize,
}

/// Writes a checked checkpoint.
pub(super) fn write(
    checkpoint: &Checkpoint<'_>,
    out: &mut impl Write,
    mut progress: impl FnMut(LoadProgress<'_>),
) -> Result<(), ModelError> {
    let targets = targets(checkpoint)?;
    let total = targets.iter().map(|target| target.bytes as u64).sum();
    let written = |source| WeightsError::Write { source };
    out.write_all(&header(checkpoint, &targets)).map_err(written)?;
    let mut bytes = 0;
    for target in &targets {
        match target.format {
            Some(_) => out.write_all(target.source.matrix()?.panels()).map_err(written)?,
            None => {
                for weight in target.source.vector()? {
                    out.write_all(&weight.to_le_bytes()).map_err(written)?;
                }
            }
        }
        bytes += target.bytes as u64;
        progress(LoadProgress { tensor: &target.wanted.name, bytes, total });
    }
    Ok(())
}

/// Every tensor, matrices first: their sizes keep the borders that they begin on.
fn targets<'c>(checkpoint: &'c Checkpoint<'c>) -> Result<Vec<Target<'c>>, WeightsError> {
    let names = expected(&checkpoint.config, Naming::HuggingFace);
    let mut targets = Vec::new();
    for (target, (wanted, index)) in names.into_iter().zip(&checkpoint.tensors) {
        let source = Source { checkpoint, archive: &checkpoint.archives[*index], wanted };
        let format = checkpoint.format(wanted.field, source.info()?);
        let bytes = names::bytes(&wanted.shape, format).unwrap_or(0);
        let format = (wanted.shape.len() == 2).then_some(format);
        targets.push(Target { name: target.name, source, wanted, format, bytes });
    }
    targets.sort_by_key(|target| target.format.is_none());
    Ok(targets)
}

/// The length of the header and the header, padded so that data begins on a border.
fn header(checkpoint: &Checkpoint<'_>, targets: &[Target<'_>]) -> Vec<u8> {
    let matrices = targets.iter().filter_map(|target| match target.wanted.shape.as_slice() {
        &[rows, cols] => Some((target.name.as_str(), target.format?, [rows, cols])),
        _ => None,
    });
    let metadata = panels::metadata(checkpoint.config.rope_layout, matrices);
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut end = 0;
    for target in targets {
        let begin = end;
        end += target.bytes;
        let (dtype, shape) = match target.format {
            Some(_) => ("U8", vec![target.bytes]),
            None => ("F32", target.wanted.shape.clone()),
        };
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        entries.insert(target.name.clone(), entry);
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize((text.len() + 8).next_multiple_of(ALIGNMENT) - 8, b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}

//! Safetensors files that hold matrices in the kernels' own layout.
//!
//! Such a matrix is a tensor of bytes. What they are stands in the file's metadata:
//!
//! ```text
//! "panels": "2"                                  the layout's version
//! "panels:model.layers.0.mlp.up_proj.weight": "q8_0 14336x4096"
//! "rope_layout": "half_split"                    the order of the rows of q_proj and k_proj
//! ```

use std::collections::BTreeMap;

use mistral_core::ops::RopeLayout;
use mistral_core::{Matrix, WeightFormat};
use safetensors::Dtype;

use super::error::ArchiveError;
use super::tensor::{Stored, TensorInfo};

/// The version of the layout. It changes with any byte of it.
const VERSION: &str = "2";
const VERSION_KEY: &str = "panels";
const TENSOR_PREFIX: &str = "panels:";
const ROPE_KEY: &str = "rope_layout";

/// Marks the tensors that the metadata calls panels; returns what is wrong with it.
pub(super) fn mark(
    tensors: &mut BTreeMap<String, TensorInfo>,
    metadata: &BTreeMap<String, String>,
) -> Vec<ArchiveError> {
    let Some(version) = metadata.get(VERSION_KEY) else { return Vec::new() };
    if version != VERSION {
        return vec![ArchiveError::PanelsVersion { found: version.clone(), expected: VERSION }];
    }
    let entries =
        metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(TENSOR_PREFIX)?, value)));
    let mut problems = Vec::new();
    for (name, entry) in entries {
        let info = tensors.get_mut(name).filter(|info| info.stored == Stored::Other(Dtype::U8));
        let matrix = parse(entry);
        let bytes = matrix.and_then(|(format, [rows, cols])| Matrix::bytes_for(rows, cols, format));
        match (info, matrix) {
            (Some(info), Some((format, shape))) if bytes.map(|b| b as u64) == Some(info.bytes) => {
                info.stored = Stored::Panels(format);
                info.shape = shape.to_vec();
            }
            (info, _) => problems.push(ArchiveError::Panels {
                tensor: name.to_owned(),
                entry: entry.clone(),
                found: info.map(|info| info.bytes),
            }),
        }
    }
    problems
}

/// `q8_0 14336x4096`
fn parse(entry: &str) -> Option<(WeightFormat, [usize; 2])> {
    let (format, shape) = entry.split_once(' ')?;
    let (rows, cols) = shape.split_once('x')?;
    Some((format.parse().ok()?, [rows.parse().ok()?, cols.parse().ok()?]))
}

/// The order of rows that the metadata tells.
pub(super) fn rope_layout(metadata: &BTreeMap<String, String>) -> Option<RopeLayout> {
    match metadata.get(ROPE_KEY)?.as_str() {
        "half_split" => Some(RopeLayout::HalfSplit),
        "interleaved" => Some(RopeLayout::Interleaved),
        _ => None,
    }
}

/// The metadata of a file with these matrices: name, format, shape.
pub(super) fn metadata<'a>(
    rope_layout: RopeLayout,
    matrices: impl Iterator<Item = (&'a str, WeightFormat, [usize; 2])>,
) -> BTreeMap<String, String> {
    let rope = match rope_layout {
        RopeLayout::HalfSplit => "half_split",
        RopeLayout::Interleaved => "interleaved",
    };
    let mut metadata = BTreeMap::from([
        (VERSION_KEY.to_owned(), VERSION.to_owned()),
        (ROPE_KEY.to_owned(), rope.to_owned()),
    ]);
    metadata.extend(matrices.map(|(name, format, [rows, cols])| {
        (format!("{TENSOR_PREFIX}{name}"), format!("{format} {rows}x{cols}"))
    }));
    metadata
}

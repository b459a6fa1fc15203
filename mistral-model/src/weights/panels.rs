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
    let mut problems = Vec::new();
    if rope_layout(metadata).is_none() {
        problems.push(ArchiveError::RopeLayout { found: metadata.get(ROPE_KEY).cloned() });
    }
    let entries =
        metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(TENSOR_PREFIX)?, value)));
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

#[cfg(test)]
mod tests {
    use mistral_core::MatrixError;

    use super::*;

    /// FNV-1a.
    fn hash(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// Of version 2: the hash of 32 rows of 512 weights of the same bytes.
    const LAYOUTS: [(&str, u64); WeightFormat::ALL.len()] = [
        ("f32", 0x22ed_4024_3c32_13e6),
        ("f16", 0x67d7_b4af_1b95_3c68),
        ("bf16", 0x67d7_b4af_1b95_3c68),
        ("bf16xbf16", 0x5bd4_d3c1_a868_41c4),
        ("q8_0", 0x8eb0_e559_3c94_099f),
        ("w8a8", 0x1bb4_1872_c518_1dd5),
        ("q6_k", 0x20b1_0930_faa9_64fc),
        ("q5_k", 0x43aa_b95c_c6d1_5841),
        ("q5_0", 0x38b8_0bab_87f4_cd29),
        ("q4_k", 0x82a2_1606_292f_2c6f),
        ("q4_0", 0x4826_5bb4_b2a3_e7fa),
        ("w4a8", 0x95e7_a325_bf2e_4522),
    ];

    #[test]
    fn a_layout_is_changed_with_its_version() {
        let found = WeightFormat::ALL.map(|format| {
            let mut state = 1u32;
            let matrix = Matrix::read(32, 512, format, |bytes| {
                bytes.fill_with(|| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                });
                Ok::<(), MatrixError>(())
            });
            (format.to_string(), hash(matrix.unwrap().panels()))
        });
        let expected = LAYOUTS.map(|(format, hash)| (format.to_owned(), hash));
        assert_eq!((found, VERSION), (expected, "2"), "new hashes need a new version");
    }
}

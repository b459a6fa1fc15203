//! The header of a GGUF file: key/values and the table of tensors.

use std::collections::BTreeMap;
use std::io::Read;

use mistral_core::WeightFormat;

use super::error::GgufError;
use super::reader::Reader;
use super::value::Value;
use crate::weights::tensor::{Stored, TensorInfo};

/// The fewest bytes of a key/value: the key's length, a type, a value.
const SMALLEST_PAIR: u64 = 8 + 4 + 1;
/// The fewest bytes of a tensor: its name's length, dimensions, one size, type, offset.
const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// A checked header.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) values: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header of a file with `len` bytes.
    pub(crate) fn read(source: impl Read, len: u64) -> Result<Self, GgufError> {
        let mut reader = Reader::new(source, len);
        let magic = reader.array("the magic number")?;
        if magic != *b"GGUF" {
            return Err(GgufError::Magic { found: magic });
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let n_tensors = reader.u64("the number of tensors")?;
        let n_pairs = reader.u64("the number of key/values")?;
        reader.expect("the key/values", n_pairs, SMALLEST_PAIR)?;
        let mut values = BTreeMap::new();
        for _ in 0..n_pairs {
            let offset = reader.offset();
            let key = reader.name("a key")?;
            let value = Value::read(&mut reader, &key)?;
            if values.contains_key(&key) {
                return Err(GgufError::DuplicateKey { key, offset });
            }
            values.insert(key, value);
        }
        reader.expect("the table of tensors", n_tensors, SMALLEST_TENSOR)?;
        let mut entries = BTreeMap::new();
        for _ in 0..n_tensors {
            let offset = reader.offset();
            let (tensor, entry) = Entry::read(&mut reader)?;
            if entries.contains_key(&tensor) {
                return Err(GgufError::DuplicateTensor { tensor, offset });
            }
            entries.insert(tensor, entry);
        }
        let alignment = alignment(&values)?;
        let data = reader.offset().next_multiple_of(alignment);
        let tensors = Entry::place(entries, Data { start: data, alignment, len })?;
        Ok(Self { values, tensors })
    }
}

fn alignment(values: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let Some(value) = values.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let found = value.unsigned().unwrap_or(0);
    let sensible = found.is_power_of_two() && found <= 1 << 20;
    if sensible { Ok(found) } else { Err(GgufError::Alignment { found }) }
}

/// Where tensors may lie.
#[derive(Clone, Copy)]
struct Data {
    start: u64,
    alignment: u64,
    len: u64,
}

impl Data {
    /// Refuses bytes behind the last tensor, which writers pad to a border. Where a size cannot be
    /// told, neither can the end.
    fn ends_with(self, tensors: &BTreeMap<String, TensorInfo>) -> Result<(), GgufError> {
        if tensors.values().any(|info| matches!(info.stored, Stored::Ggml(_))) {
            return Ok(());
        }
        let end = tensors.values().map(|info| info.offset + info.bytes).max();
        let expected = end.unwrap_or(self.start).next_multiple_of(self.alignment);
        if self.len <= expected {
            return Ok(());
        }
        Err(GgufError::TrailingBytes { found: self.len, expected })
    }
}

/// A tensor as the table describes it.
struct Entry {
    /// Sizes, outermost first.
    shape: Vec<u64>,
    type_id: u32,
    /// From the start of the data.
    offset: u64,
}

impl Entry {
    fn read<R: Read>(reader: &mut Reader<R>) -> Result<(String, Self), GgufError> {
        let tensor = reader.name("the name of a tensor")?;
        let found = reader.u32("the dimensions of a tensor")?;
        if !(1..=4).contains(&found) {
            return Err(GgufError::Dimensions { tensor, found });
        }
        let mut shape = Vec::new();
        for _ in 0..found {
            shape.push(reader.u64("the shape of a tensor")?);
        }
        // The file begins with the innermost.
        shape.reverse();
        let type_id = reader.u32("the type of a tensor")?;
        let offset = reader.u64("the offset of a tensor")?;
        Ok((tensor, Self { shape, type_id, offset }))
    }

    /// Holds all tensors against the file and each other.
    fn place(
        entries: BTreeMap<String, Self>,
        data: Data,
    ) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
        let (mut tensors, mut problems) = (BTreeMap::new(), Vec::new());
        for (tensor, entry) in entries {
            match entry.info(&tensor, data) {
                Ok(info) => drop(tensors.insert(tensor, info)),
                Err(problem) => problems.push(problem),
            }
        }
        let mut in_file: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
        in_file.sort_by_key(|(_, info)| (info.offset, info.bytes));
        for pair in in_file.windows(2) {
            let [(first, before), (second, after)] = pair else { continue };
            if before.offset + before.bytes > after.offset {
                problems.push(GgufError::Overlap {
                    first: (*first).clone(),
                    second: (*second).clone(),
                    offset: after.offset,
                });
            }
        }
        GgufError::all(problems)?;
        data.ends_with(&tensors)?;
        Ok(tensors)
    }

    fn info(self, tensor: &str, data: Data) -> Result<TensorInfo, GgufError> {
        let tensor = || tensor.to_owned();
        let Data { start, alignment, len } = data;
        if !self.offset.is_multiple_of(alignment) {
            let offset = self.offset;
            return Err(GgufError::Misaligned { tensor: tensor(), offset, alignment });
        }
        let outside = |offset, end| GgufError::OutsideFile { tensor: tensor(), offset, end, len };
        let offset =
            start.checked_add(self.offset).ok_or_else(|| outside(self.offset, u64::MAX))?;
        let sizes: Option<Vec<usize>> =
            self.shape.iter().map(|size| usize::try_from(*size).ok()).collect();
        let impossible = || GgufError::Shape { tensor: tensor(), shape: self.shape.clone() };
        let shape = sizes.ok_or_else(impossible)?;
        let Some(format) = format(self.type_id) else {
            // Its size cannot be told: the file may hold what this model does not need.
            return Ok(TensorInfo { stored: Stored::Ggml(self.type_id), shape, offset, bytes: 0 });
        };
        let (cols, rows) = shape.split_last().unwrap_or((&0, &[]));
        let block = format.block();
        if !cols.is_multiple_of(block) {
            let cols = *cols as u64;
            return Err(GgufError::Columns { tensor: tensor(), offset, cols, format, block });
        }
        let bytes = rows
            .iter()
            .try_fold(format.row_bytes(*cols).ok_or_else(impossible)?, |bytes, size| {
                bytes.checked_mul(*size)
            })
            .ok_or_else(impossible)? as u64;
        match offset.checked_add(bytes) {
            Some(end) if end <= len => {
                Ok(TensorInfo { stored: Stored::Rows(format), shape, offset, bytes })
            }
            end => Err(outside(offset, end.unwrap_or(u64::MAX))),
        }
    }
}

/// The format of a type id, if it is one that is read.
fn format(type_id: u32) -> Option<WeightFormat> {
    Some(match type_id {
        0 => WeightFormat::F32,
        1 => WeightFormat::F16,
        2 => WeightFormat::Q4_0,
        6 => WeightFormat::Q5_0,
        8 => WeightFormat::Q8_0,
        12 => WeightFormat::Q4K,
        13 => WeightFormat::Q5K,
        14 => WeightFormat::Q6K,
        30 => WeightFormat::BF16,
        _ => return None,
    })
}

//! One safetensors file: a checked table of contents, and readers over its tensors.
//!
//! The header comes from a stranger. It is checked whole before anything is allocated for a
//! tensor: its length against the file's, each tensor's size against its shape and type, and the
//! tensors against each other, so that they cover the file without a gap or an overlap.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
#[cfg(feature = "mmap")]
use std::sync::Arc;

use mistral_attention::Window;
use mistral_core::SharedBytes;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::error::{ArchiveError, WeightsError};
use super::tensor::TensorInfo;
use super::{OpenOptions, gguf, panels};
use crate::config::Config;

/// Bytes of the header's length at the start of a file.
const PREFIX: u64 = 8;
/// Longest header that is read. A 7B model's has 40 kB.
const LONGEST_HEADER: u64 = 32 << 20;

/// An open file.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    path: PathBuf,
    source: Source<'a>,
    contents: Contents,
}

/// What a file says of itself.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Whatever else a safetensors header tells.
    pub(super) metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Source<'a> {
    File(File),
    Bytes(&'a [u8]),
    #[cfg(feature = "mmap")]
    Map(Arc<memmap2::Mmap>),
}

impl Archive<'static> {
    /// Opens a safetensors file.
    pub(super) fn open(path: &Path, options: OpenOptions) -> Result<Self, WeightsError> {
        let (file, header, len) = Self::open_header(path)?;
        let contents = contents(&header, len).map_err(|source| at(path, source))?;
        Ok(Self { path: path.to_owned(), source: Source::of(file, path, len, options)?, contents })
    }

    /// Opens a GGUF file; what it says of the model comes with it, see [`gguf::config`].
    pub(super) fn open_gguf(
        path: &Path,
        options: OpenOptions,
    ) -> Result<(Self, Config, Option<Window>), WeightsError> {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        let len = file.metadata().map_err(|source| io_error(path, source))?.len();
        let gguf = |source| WeightsError::Gguf { path: path.to_owned(), source };
        let header = gguf::Header::read(BufReader::new(&file), len).map_err(gguf)?;
        let (config, window) = gguf::config(&header).map_err(gguf)?;
        let contents = Contents { tensors: header.tensors, metadata: BTreeMap::new() };
        let source = Source::of(file, path, len, options)?;
        Ok((Self { path: path.to_owned(), source, contents }, config, window))
    }

    /// The file, its header, its length.
    fn open_header(path: &Path) -> Result<(File, Vec<u8>, u64), WeightsError> {
        let mut file = File::open(path).map_err(|source| io_error(path, source))?;
        let len = file.metadata().map_err(|source| io_error(path, source))?.len();
        let mut prefix = [0; PREFIX as usize];
        if len < PREFIX {
            return Err(at(path, ArchiveError::Truncated { found: len, expected: PREFIX }));
        }
        file.read_exact(&mut prefix).map_err(|source| io_error(path, source))?;
        let length = header_length(prefix, len).map_err(|source| at(path, source))?;
        let mut header = Vec::new();
        header.try_reserve_exact(length).map_err(|source| io_error(path, source.into()))?;
        header.resize(length, 0);
        file.read_exact(&mut header).map_err(|source| io_error(path, source))?;
        Ok((file, header, len))
    }
}

impl Source<'static> {
    /// The file itself, or a map of it, which must have the length that its header was read with.
    fn of(file: File, path: &Path, len: u64, options: OpenOptions) -> Result<Self, WeightsError> {
        #[cfg(feature = "mmap")]
        if options.mmap {
            let map = super::mmap::map(&file).map_err(|source| io_error(path, source))?;
            if map.len() as u64 != len {
                let source = ArchiveError::LengthChanged { found: map.len() as u64, expected: len };
                return Err(at(path, source));
            }
            return Ok(Self::Map(Arc::new(map)));
        }
        let _ = (path, len, options);
        Ok(Self::File(file))
    }
}

impl<'a> Archive<'a> {
    pub(super) fn from_bytes(name: &str, bytes: &'a [u8]) -> Result<Self, WeightsError> {
        let path = PathBuf::from(name);
        let len = bytes.len() as u64;
        let (prefix, rest) = bytes
            .split_first_chunk::<{ PREFIX as usize }>()
            .ok_or_else(|| at(&path, ArchiveError::Truncated { found: len, expected: PREFIX }))?;
        let contents = header_length(*prefix, len)
            .and_then(|length| contents(&rest[..length], len))
            .map_err(|source| at(&path, source))?;
        Ok(Self { path, source: Source::Bytes(bytes), contents })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.contents.tensors
    }

    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// The memory of the file and the place of a tensor in it, if it is mapped.
    #[cfg_attr(not(feature = "mmap"), allow(unused_variables))]
    pub(super) fn shared(&self, info: &TensorInfo) -> Option<(SharedBytes, Range<usize>)> {
        match &self.source {
            #[cfg(feature = "mmap")]
            Source::Map(map) => Some((Arc::clone(map) as SharedBytes, info.range())),
            Source::File(_) | Source::Bytes(_) => None,
        }
    }

    /// Calls `read` with a reader over exactly the bytes of a tensor.
    pub(super) fn read<T>(
        &self,
        info: &TensorInfo,
        read: impl FnOnce(&mut dyn Read) -> Result<T, WeightsError>,
    ) -> Result<T, WeightsError> {
        match &self.source {
            Source::File(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(info.offset)).map_err(|e| io_error(&self.path, e))?;
                read(&mut BufReader::with_capacity(1 << 18, file.take(info.bytes)))
            }
            Source::Bytes(bytes) => read(&mut part(bytes, info)),
            #[cfg(feature = "mmap")]
            Source::Map(map) => read(&mut part(map, info)),
        }
    }
}

/// The bytes of a tensor that was checked to lie inside.
fn part<'b>(bytes: &'b [u8], info: &TensorInfo) -> &'b [u8] {
    bytes.get(info.range()).unwrap_or_default()
}

fn at(path: &Path, source: ArchiveError) -> WeightsError {
    WeightsError::Archive { path: path.to_owned(), source }
}

pub(super) fn io_error(path: &Path, source: io::Error) -> WeightsError {
    WeightsError::Io { path: path.to_owned(), source }
}

/// Length of the header, if it can be.
fn header_length(prefix: [u8; PREFIX as usize], file: u64) -> Result<usize, ArchiveError> {
    let length = u64::from_le_bytes(prefix);
    if length > LONGEST_HEADER {
        return Err(ArchiveError::HeaderTooLong { found: length, limit: LONGEST_HEADER });
    }
    if length > file - PREFIX {
        return Err(ArchiveError::Truncated { found: file, expected: length + PREFIX });
    }
    Ok(length as usize)
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in their order; a map would lose duplicates.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        entries.metadata = map.next_value()?;
                    } else {
                        entries.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The checked table of contents of a file with `len` bytes.
fn contents(header: &[u8], len: u64) -> Result<Contents, ArchiveError> {
    let text = std::str::from_utf8(header).map_err(|source| ArchiveError::HeaderNotUtf8 {
        offset: PREFIX + source.valid_up_to() as u64,
    })?;
    let Entries { tensors: entries, metadata } = serde_json::from_str(text)?;
    let data = PREFIX + header.len() as u64;
    let mut tensors = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, entry) in entries {
        match checked(&name, entry, data, len) {
            Err(problem) => problems.push(problem),
            Ok(_) if tensors.contains_key(&name) => {
                problems.push(ArchiveError::Duplicate { tensor: name });
            }
            Ok(info) => {
                tensors.insert(name, info);
            }
        }
    }
    problems.extend(panels::mark(&mut tensors, &metadata));
    match problems.pop() {
        None => {}
        Some(only) if problems.is_empty() => return Err(only),
        Some(last) => {
            problems.push(last);
            return Err(ArchiveError::Several { problems });
        }
    }
    let mut in_file: Vec<_> = tensors.iter().collect();
    in_file.sort_by_key(|(_, info)| (info.offset, info.bytes));
    let mut expected = data;
    for (name, info) in in_file {
        if info.offset != expected {
            return Err(ArchiveError::NotConsecutive {
                tensor: name.clone(),
                found: info.offset,
                expected,
            });
        }
        expected += info.bytes;
    }
    if expected != len {
        return Err(ArchiveError::TrailingBytes { found: len, expected });
    }
    Ok(Contents { tensors, metadata })
}

fn checked(name: &str, entry: Entry, data: u64, len: u64) -> Result<TensorInfo, ArchiveError> {
    let tensor = || name.to_owned();
    let dtype: Dtype = serde_json::from_value(entry.dtype.clone().into())
        .map_err(|_| ArchiveError::UnknownDType { tensor: tensor(), found: entry.dtype })?;
    let [begin, end] = entry.data_offsets;
    let span = data.checked_add(begin).zip(data.checked_add(end));
    let (offset, stop) = span.filter(|(from, to)| from <= to && *to <= len).ok_or_else(|| {
        ArchiveError::OutsideFile { tensor: tensor(), begin, end, data: len - data }
    })?;
    let bits = entry
        .shape
        .iter()
        .try_fold(dtype.bitsize() as u64, |product, size| product.checked_mul(*size));
    let bytes = stop - offset;
    if bits != bytes.checked_mul(8) {
        return Err(ArchiveError::SizeMismatch {
            tensor: tensor(),
            shape: entry.shape,
            dtype,
            offset,
            found: bytes,
        });
    }
    let shape = entry.shape.iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| ArchiveError::OutsideFile {
        tensor: tensor(),
        begin,
        end,
        data: len - data,
    })?;
    Ok(TensorInfo { stored: dtype.into(), shape, offset, bytes })
}

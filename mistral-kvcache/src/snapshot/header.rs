//! What a snapshot says about itself, before the keys and values.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use mistral_core::kv::KvFormat;

use super::checksum::SummingWriter;
use super::error::SnapshotError;
use super::reader::SnapshotReader;
use crate::config::CacheConfig;
use crate::error::CacheError;

/// The first bytes of every snapshot.
const MAGIC: [u8; 8] = *b"MKVCACHE";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// What a snapshot says about itself: enough to find out whether it is of use, without reading its
/// keys and values.
///
/// ```
/// use mistral_kvcache::{CacheConfig, RollingKvCache, SnapshotHeader, ndarray::Array3};
///
/// let mut cache = RollingKvCache::<f32>::new(CacheConfig::new(1, 1, 8).with_window(4))?;
/// let id = cache.add_sequence()?;
/// let k = Array3::ones((3, 1, 8));
/// cache.stage(id, 0, k.view(), k.view())?.commit();
///
/// let mut file = Vec::new();
/// cache.save(id, [7; 32], &[1, 415, 2], &mut file)?;
/// let header = SnapshotHeader::read(file.as_slice())?;
/// assert_eq!((header.position, header.tokens), (3, vec![1, 415, 2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotHeader {
    /// Which weights the keys and values come from.
    pub fingerprint: [u8; 32],
    /// Format of keys and values.
    pub format: KvFormat,
    /// Number of layers.
    pub n_layers: u64,
    /// Number of key/value heads.
    pub n_kv_heads: u64,
    /// Elements in one head.
    pub head_dim: u64,
    /// Tokens kept beyond the window.
    pub rewind_slack: u64,
    /// Pinned first positions.
    pub sinks: u64,
    /// The window of each layer; 0 is none.
    pub windows: Vec<u64>,
    /// Position of the next token.
    pub position: u64,
    /// The tokens that were saved with it.
    pub tokens: Vec<u32>,
}

impl SnapshotHeader {
    /// Reads the beginning of a snapshot, and no more of it.
    ///
    /// The checksum stands at the end, so it is not looked at: what this says is to be believed
    /// only after [`restore`](crate::RollingKvCache::restore).
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::NotASnapshot`], [`SnapshotError::UnknownVersion`],
    ///   [`SnapshotError::UnknownFormat`]: something else.
    /// - [`SnapshotError::Truncated`], [`SnapshotError::Io`]: it cannot be read.
    /// - [`SnapshotError::Cache`]: no memory for so many tokens.
    pub fn read(reader: impl Read) -> Result<Self, SnapshotError> {
        Self::read_from(&mut SnapshotReader::new(reader))
    }

    /// Reads the beginning of a snapshot in a file.
    ///
    /// # Errors
    ///
    /// - [`SnapshotError::File`]: it cannot be opened.
    ///
    /// And as [`read`](Self::read).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SnapshotError> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|source| SnapshotError::File { path: path.to_owned(), source })?;
        Self::read(BufReader::new(file))
    }

    pub(super) fn new(
        config: &CacheConfig,
        format: KvFormat,
        fingerprint: [u8; 32],
        position: usize,
        tokens: &[u32],
    ) -> Result<Self, CacheError> {
        let mut windows = Vec::new();
        let bytes = config.n_layers().saturating_mul(size_of::<u64>());
        let reserved = windows.try_reserve_exact(config.n_layers());
        reserved.map_err(|_| CacheError::OutOfMemory { bytes })?;
        windows.extend(config.windows().map(|window| window.unwrap_or(0) as u64));
        Ok(Self {
            fingerprint,
            format,
            n_layers: config.n_layers() as u64,
            n_kv_heads: config.n_kv_heads() as u64,
            head_dim: config.head_dim() as u64,
            rewind_slack: config.rewind_slack() as u64,
            sinks: config.sinks() as u64,
            windows,
            position: position as u64,
            tokens: tokens.to_vec(),
        })
    }

    pub(super) fn write_to<W: Write>(
        &self,
        writer: &mut SummingWriter<W>,
    ) -> Result<(), SnapshotError> {
        writer.write(&MAGIC)?;
        writer.write(&VERSION.to_le_bytes())?;
        writer.write(&self.fingerprint)?;
        writer.write(&number_of(self.format).to_le_bytes())?;
        let sizes = [self.n_layers, self.n_kv_heads, self.head_dim, self.rewind_slack, self.sinks];
        for size in sizes.iter().chain(&self.windows) {
            writer.write(&size.to_le_bytes())?;
        }
        writer.write(&self.position.to_le_bytes())?;
        writer.write(&(self.tokens.len() as u64).to_le_bytes())?;
        for token in &self.tokens {
            writer.write(&token.to_le_bytes())?;
        }
        Ok(())
    }

    pub(super) fn read_from<R: Read>(
        reader: &mut SnapshotReader<R>,
    ) -> Result<Self, SnapshotError> {
        let magic = reader.array("magic number")?;
        if magic != MAGIC {
            return Err(SnapshotError::NotASnapshot { found: magic, expected: MAGIC });
        }
        let version = reader.u32("version")?;
        if version != VERSION {
            return Err(SnapshotError::UnknownVersion { found: version, expected: VERSION });
        }
        let fingerprint = reader.array("fingerprint")?;
        let number = reader.u32("format")?;
        let format = KvFormat::ALL.into_iter().find(|format| number_of(*format) == number);
        let mut sizes = [0; 5];
        for size in &mut sizes {
            *size = reader.u64("configuration")?;
        }
        let [n_layers, n_kv_heads, head_dim, rewind_slack, sinks] = sizes;
        Ok(Self {
            fingerprint,
            format: format.ok_or(SnapshotError::UnknownFormat { found: number })?,
            n_layers,
            n_kv_heads,
            head_dim,
            rewind_slack,
            sinks,
            windows: reader.list("windows", n_layers, u64::from_le_bytes)?,
            position: reader.u64("position")?,
            tokens: {
                let n_tokens = reader.u64("number of tokens")?;
                reader.list("tokens", n_tokens, u32::from_le_bytes)?
            },
        })
    }

    /// Refuses a snapshot of another model or another cache.
    pub(super) fn check(&self, expected: &Self) -> Result<(), SnapshotError> {
        if self.fingerprint != expected.fingerprint {
            let (found, expected) = (self.fingerprint, expected.fingerprint);
            return Err(SnapshotError::OtherModel { found, expected });
        }
        if self.format != expected.format {
            let (found, expected) = (self.format, expected.format);
            return Err(SnapshotError::OtherFormat { found, expected });
        }
        for (field, found, expected) in [
            ("n_layers", self.n_layers, expected.n_layers),
            ("n_kv_heads", self.n_kv_heads, expected.n_kv_heads),
            ("head_dim", self.head_dim, expected.head_dim),
            ("rewind_slack", self.rewind_slack, expected.rewind_slack),
            ("sinks", self.sinks, expected.sinks),
        ] {
            if found != expected {
                return Err(SnapshotError::OtherConfig { field, found, expected });
            }
        }
        for (layer, (&found, &expected)) in self.windows.iter().zip(&expected.windows).enumerate() {
            if found != expected {
                return Err(SnapshotError::OtherWindow { layer, found, expected });
            }
        }
        Ok(())
    }
}

/// The number that stands for a format in a snapshot.
fn number_of(format: KvFormat) -> u32 {
    match format {
        KvFormat::F32 => 0,
        KvFormat::F16 => 1,
        KvFormat::BF16 => 2,
        KvFormat::Int8 => 3,
        _ => u32::MAX,
    }
}

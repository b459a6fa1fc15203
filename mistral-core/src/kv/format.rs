//! The formats of keys and values, as a value: what a command line or a snapshot names.

use crate::element::DType;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// [`Int8`](super::Int8): 8 bits an element, and an f16 scale for each 32.
    Int8,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Int8];

    /// The lower-case name: `f32`, `f16`, `bf16`, `int8`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl From<DType> for KvFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
        }
    }
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no format of keys and values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown key/value format {found:?}, expected f32, f16, bf16 or int8")]
pub struct UnknownKvFormat {
    /// The word as it was given.
    pub found: String,
}

impl std::str::FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(s: &str) -> Result<Self, UnknownKvFormat> {
        let named = Self::ALL.into_iter().find(|format| format.name() == s);
        named.ok_or_else(|| UnknownKvFormat { found: s.to_owned() })
    }
}

//! The values of a GGUF header.

use std::io::{self, Read};

use super::error::GgufError;
use super::reader::Reader;

/// A value, or an array of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A number without a sign.
    Unsigned(u64),
    /// A number with a sign.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Texts, one after the other: as many bytes as the file has for them.
    Texts { joined: String, ends: Vec<usize> },
    /// Numbers as the file holds them.
    Numbers { kind: Kind, bytes: Vec<u8> },
}

/// The types of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Kind {
    fn of(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value in as many bytes as the kind has.
    fn value(self, bytes: &[u8]) -> Value {
        let mut padded = [0; 8];
        padded.iter_mut().zip(bytes).for_each(|(t, s)| *t = *s);
        let [a, b, c, d, ..] = padded;
        match self {
            Self::U8 => Value::Unsigned(u64::from(a)),
            Self::I8 => Value::Signed(i64::from(a as i8)),
            Self::U16 => Value::Unsigned(u64::from(u16::from_le_bytes([a, b]))),
            Self::I16 => Value::Signed(i64::from(i16::from_le_bytes([a, b]))),
            Self::U32 => Value::Unsigned(u64::from(u32::from_le_bytes([a, b, c, d]))),
            Self::I32 => Value::Signed(i64::from(i32::from_le_bytes([a, b, c, d]))),
            Self::F32 => Value::Float(f64::from(f32::from_le_bytes([a, b, c, d]))),
            Self::Bool => Value::Bool(a != 0),
            Self::U64 => Value::Unsigned(u64::from_le_bytes(padded)),
            Self::I64 => Value::Signed(i64::from_le_bytes(padded)),
            Self::F64 => Value::Float(f64::from_le_bytes(padded)),
        }
    }
}

impl Value {
    /// Reads the type and the value of `key`.
    pub(super) fn read<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Self, GgufError> {
        let offset = reader.offset();
        match reader.u32("the type of a value")? {
            TEXT => reader.string("a value").map(Self::Text),
            ARRAY => Self::read_array(reader, key),
            found => match Kind::of(found) {
                Some(kind) => {
                    let bytes = reader.bytes("a value", kind.bytes() as u64)?;
                    Ok(kind.value(&bytes))
                }
                None => Err(GgufError::ValueType { key: key.to_owned(), found, offset }),
            },
        }
    }

    fn read_array<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Self, GgufError> {
        let offset = reader.offset();
        let element = reader.u32("the type of an array")?;
        let count = reader.u64("the length of an array")?;
        match (element, Kind::of(element)) {
            (ARRAY, _) => Err(GgufError::NestedArray { key: key.to_owned(), offset }),
            (TEXT, _) => {
                // A text has at least its length of 8 bytes.
                let count = reader.expect("an array of texts", count, 8)?;
                let (mut joined, mut ends) = (String::new(), Vec::new());
                ends.try_reserve_exact(count).map_err(io::Error::from)?;
                for _ in 0..count {
                    let text = reader.string("a text of an array")?;
                    joined.try_reserve(text.len()).map_err(io::Error::from)?;
                    joined.push_str(&text);
                    ends.push(joined.len());
                }
                Ok(Self::Texts { joined, ends })
            }
            (_, Some(kind)) => {
                let bytes = count.saturating_mul(kind.bytes() as u64);
                Ok(Self::Numbers { kind, bytes: reader.bytes("an array of numbers", bytes)? })
            }
            (found, None) => Err(GgufError::ValueType { key: key.to_owned(), found, offset }),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn unsigned(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// A number.
    pub(super) fn float(&self) -> Option<f64> {
        match *self {
            Self::Float(value) => Some(value),
            _ => self.unsigned().map(|value| value as f64),
        }
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of an array.
    pub(super) fn texts(&self) -> Option<impl ExactSizeIterator<Item = &str>> {
        let Self::Texts { joined, ends } = self else { return None };
        Some(ends.iter().enumerate().map(move |(i, end)| {
            let start = i.checked_sub(1).map_or(0, |before| ends[before]);
            &joined[start..*end]
        }))
    }

    /// The numbers of an array.
    #[cfg(feature = "tokenizer")]
    pub(super) fn numbers(&self) -> Option<impl ExactSizeIterator<Item = Value> + '_> {
        let Self::Numbers { kind, bytes } = self else { return None };
        Some(bytes.chunks_exact(kind.bytes()).map(|bytes| kind.value(bytes)))
    }

    /// Enough to recognise the value by.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Self::Texts { ends, .. } => format!("an array of {} texts", ends.len()),
            Self::Numbers { kind, bytes } => {
                format!("an array of {} numbers", bytes.len() / kind.bytes())
            }
        }
    }
}

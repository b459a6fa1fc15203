//! JSON as Mistral's models were trained to read it: what Python's `json` module reads and writes.
//!
//! It differs from other JSON in what a model sees: `", "` and `": "` between values, the order of
//! keys kept, characters beyond ASCII unescaped, integers of any size exact, `1e3` as `1000.0`,
//! and `NaN` and `Infinity` as numbers. So a value is read ([`Json::parse`]) and written
//! ([`Display`](std::fmt::Display)) here, and by no other library.

mod float;
mod integer;
mod parse;
mod write;

pub use integer::Integer;
pub use parse::{JsonError, JsonProblem};

/// A JSON value.
///
/// ```
/// use mistral_model::chat::Json;
///
/// let value = Json::parse(r#"{"b":1e3,"a":[1E-7,"\u00e9"],"b":2.50}"#)?;
/// assert_eq!(value.to_string(), r#"{"b": 2.5, "a": [1e-07, "é"]}"#);
/// # Ok::<(), mistral_model::chat::JsonError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a point or an exponent, of any size.
    Integer(Integer),
    /// Any other number, `NaN`, `Infinity` or `-Infinity`.
    Float(f64),
    /// A text.
    String(String),
    /// Values in order.
    Array(Vec<Json>),
    /// Values by key, in the order in which the keys first came; no key twice.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of a key; `None` if there is none, or if this is no object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The keys and values of an object.
    pub fn as_object(&self) -> Option<&[(String, Self)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The values of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value it is, in words for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Self {
        Self::Integer(value.into())
    }
}

/// An object of keys that are known to differ.
pub(crate) fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(key, value)| (key.to_owned(), value)).into())
}

//! Fields of a request that anybody may have written: read with their place, so that what is wrong
//! can be named. As forgiving as pydantic, which mistral-common reads them with: `"yes"` is true,
//! `"0.5"` a number and `1.0` an integer.

use super::error::ChatError;
use super::json::Json;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Field<'v> {
    value: &'v Json,
    at: String,
}

/// An object whose keys are all known.
pub(super) struct Members<'v> {
    members: &'v [(String, Json)],
    at: String,
}

impl<'v> Field<'v> {
    pub(super) fn root(value: &'v Json) -> Self {
        Self { value, at: String::new() }
    }

    pub(super) fn value(&self) -> &'v Json {
        self.value
    }

    pub(super) fn is_null(&self) -> bool {
        *self.value == Json::Null
    }

    pub(super) fn error(&self, expected: &'static str) -> ChatError {
        let found = match self.value {
            Json::String(text) if text.len() <= 40 => format!("{text:?}"),
            Json::Integer(_) | Json::Float(_) | Json::Bool(_) => self.value.to_string(),
            other => other.kind().to_owned(),
        };
        let at = if self.at.is_empty() { "the request" } else { &self.at };
        ChatError::Field { at: at.to_owned(), found, expected }
    }

    fn child(&self, name: &str, value: &'v Json) -> Self {
        Self { value, at: below(&self.at, name) }
    }

    /// A field that may be missing, of an object that may have any others.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        self.value.get(name).map(|value| self.child(name, value))
    }

    /// An object with no other keys than these.
    pub(super) fn object(&self, known: &[&str]) -> Result<Members<'v>, ChatError> {
        let members = self.value.as_object().ok_or_else(|| self.error("an object"))?;
        match members.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, value)) => Err(self.child(name, value).error("no such field")),
            None => Ok(Members { members, at: self.at.clone() }),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Self>, ChatError> {
        let values = self.value.as_array().ok_or_else(|| self.error("an array"))?;
        let children = values.iter().enumerate();
        Ok(children.map(|(index, value)| self.child(&index.to_string(), value)).collect())
    }

    pub(super) fn string(&self) -> Result<&'v str, ChatError> {
        self.value.as_str().ok_or_else(|| self.error("a string"))
    }

    /// One of some words.
    pub(super) fn word(
        &self,
        words: &[&str],
        expected: &'static str,
    ) -> Result<&'v str, ChatError> {
        let word = self.value.as_str().filter(|word| words.contains(word));
        word.ok_or_else(|| self.error(expected))
    }

    pub(super) fn boolean(&self) -> Result<bool, ChatError> {
        let word = match self.value {
            Json::Bool(value) => return Ok(*value),
            Json::Integer(value) => value.to_string(),
            Json::Float(1.0) => "1".to_owned(),
            Json::Float(0.0) => "0".to_owned(),
            Json::String(word) => word.to_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "1" | "on" | "t" | "true" | "y" | "yes" => Ok(true),
            "0" | "off" | "f" | "false" | "n" | "no" => Ok(false),
            _ => Err(self.error("true or false")),
        }
    }

    /// A number from 0 to 1.
    pub(super) fn share(&self) -> Result<f64, ChatError> {
        const EXPECTED: &str = "a number from 0 to 1";
        let number = match self.value {
            Json::Bool(value) => Some(f64::from(u8::from(*value))),
            Json::Integer(value) => value.to_string().parse().ok(),
            Json::Float(value) => Some(*value),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (0.0..=1.0).contains(number));
        number.ok_or_else(|| self.error(EXPECTED))
    }

    /// A whole number of at least 0. What is beyond all counting is the largest there is.
    pub(super) fn count(&self) -> Result<u64, ChatError> {
        const EXPECTED: &str = "a whole number of at least 0";
        let digits = match self.value {
            Json::Bool(value) => u8::from(*value).to_string(),
            Json::Integer(value) => value.to_string(),
            Json::Float(value) if value.fract() == 0.0 => format!("{value:.0}"),
            Json::String(text) => {
                let text = text.trim();
                let whole = text.split_once('.').filter(|(_, zeros)| is_all(zeros, b'0'));
                let whole = whole.map_or(text, |(whole, _)| whole);
                whole.strip_prefix('+').unwrap_or(whole).to_owned()
            }
            _ => String::new(),
        };
        let digits = if digits == "-0" { "0" } else { &digits };
        let counts = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if counts { Ok(digits.parse().unwrap_or(u64::MAX)) } else { Err(self.error(EXPECTED)) }
    }
}

fn is_all(text: &str, byte: u8) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == byte)
}

fn below(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

impl<'v> Members<'v> {
    /// A field that may be missing.
    pub(super) fn get(&self, name: &str) -> Option<Field<'v>> {
        let (_, value) = self.members.iter().find(|(key, _)| key == name)?;
        Some(Field { value, at: below(&self.at, name) })
    }

    /// A field that may be missing or null.
    pub(super) fn some(&self, name: &str) -> Option<Field<'v>> {
        self.get(name).filter(|field| !field.is_null())
    }

    /// A field that must be there.
    pub(super) fn need(&self, name: &str) -> Result<Field<'v>, ChatError> {
        self.get(name).ok_or_else(|| ChatError::Field {
            at: below(&self.at, name),
            found: "missing".to_owned(),
            expected: "this field",
        })
    }
}

//! Writing: `json.dumps(value, ensure_ascii=False)`.

use std::fmt::{self, Write};

use super::{Json, float};

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&float::repr(*value)),
            Self::String(text) => string(f, text),
            Self::Array(values) => {
                f.write_char('[')?;
                for (i, value) in values.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    value.fmt(f)?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (i, (key, value)) in members.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    string(f, key)?;
                    f.write_str(": ")?;
                    value.fmt(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

fn string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let short = match c {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\0'..='\u{1f}' => "",
            _ => continue,
        };
        f.write_str(&text[plain..at])?;
        if short.is_empty() {
            write!(f, "\\u{:04x}", u32::from(c))?;
        } else {
            f.write_str(short)?;
        }
        plain = at + c.len_utf8();
    }
    f.write_str(&text[plain..])?;
    f.write_char('"')
}

#[cfg(feature = "jinja")]
impl Json {
    /// `json.dumps(value, ensure_ascii=False, indent=indent)`.
    pub(crate) fn to_string_indented(&self, indent: usize) -> String {
        let mut text = String::new();
        self.write_indented(indent, 1, &mut text);
        text
    }

    fn write_indented(&self, indent: usize, level: usize, text: &mut String) {
        let line = |text: &mut String, level: usize| {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * level));
        };
        let (brackets, members): (_, Vec<(Option<&str>, &Self)>) = match self {
            Self::Array(values) => (['[', ']'], values.iter().map(|v| (None, v)).collect()),
            Self::Object(members) => {
                (['{', '}'], members.iter().map(|(k, v)| (Some(k.as_str()), v)).collect())
            }
            _ => (['[', ']'], Vec::new()),
        };
        if members.is_empty() {
            text.push_str(&self.to_string());
            return;
        }
        text.push(brackets[0]);
        for (i, (key, value)) in members.into_iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "," });
            line(text, level);
            if let Some(key) = key {
                text.push_str(&Self::from(key).to_string());
                text.push_str(": ");
            }
            value.write_indented(indent, level + 1, text);
        }
        line(text, level - 1);
        text.push(brackets[1]);
    }
}

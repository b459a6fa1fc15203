//! Reading: `json.loads`.

use std::collections::HashMap;

use super::{Integer, Json};

/// Arrays and objects inside each other: somewhat fewer than Python's own limit on recursion.
const MAX_DEPTH: usize = 900;

/// Digits of an integer that Python reads, as a guard against quadratic time.
const MAX_DIGITS: usize = 4300;

/// A text that is no JSON, and where it stops being some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset}")]
#[non_exhaustive]
pub struct JsonError {
    /// Where, counted in bytes from the start of the text.
    pub offset: usize,
    /// What.
    pub problem: JsonProblem,
}

/// What can be wrong with JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonProblem {
    /// Something else should stand here.
    #[error("expected {expected}")]
    Expected {
        /// What.
        expected: &'static str,
    },
    /// The text ends inside a string.
    #[error("the string does not end: expected a closing quote")]
    OpenString,
    /// A control character as itself.
    #[error("a control character in a string, expected an escape such as \\n")]
    ControlCharacter,
    /// A backslash before something that it does not escape.
    #[error("an escape that JSON does not have")]
    Escape,
    /// Half a character, `\ud800` to `\udfff` without its other half.
    #[error("half of a surrogate pair, expected both halves or another character")]
    LoneSurrogate,
    /// Arrays and objects too deep inside each other.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// Levels accepted.
        limit: usize,
    },
    /// An integer too long for Python.
    #[error("an integer of more than {limit} digits")]
    TooManyDigits {
        /// Digits accepted.
        limit: usize,
    },
}

impl Json {
    /// Reads a whole text. White space may stand around every value; of a key that comes twice the
    /// last value holds.
    ///
    /// Cost: linear in the text.
    ///
    /// # Errors
    ///
    /// What is wrong, and at which byte.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let mut parser = Parser { text, at: 0, lone_surrogate: None };
        parser.space();
        let value = parser.value(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.expected("the end of the text"));
        }
        // Only now: to Python such a text is JSON, and another mistake would make it none.
        match parser.lone_surrogate {
            Some(offset) => Err(JsonError { offset, problem: JsonProblem::LoneSurrogate }),
            None => Ok(value),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    /// Where the first is.
    lone_surrogate: Option<usize>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, problem: JsonProblem) -> JsonError {
        JsonError { offset: self.at, problem }
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        self.error(JsonProblem::Expected { expected })
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over `word` if it stands here.
    fn takes(&mut self, word: &str) -> bool {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if there { word.len() } else { 0 };
        there
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        const WORDS: [(&str, Json); 6] = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("NaN", Json::Float(f64::NAN)),
            ("Infinity", Json::Float(f64::INFINITY)),
            ("-Infinity", Json::Float(f64::NEG_INFINITY)),
        ];
        match self.peek() {
            Some(b'[' | b'{') if depth == MAX_DEPTH => {
                Err(self.error(JsonProblem::TooDeep { limit: MAX_DEPTH }))
            }
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            Some(b'"') => Ok(Json::String(self.string()?)),
            _ => match WORDS.into_iter().find(|(word, _)| self.takes(word)) {
                Some((_, value)) => Ok(value),
                None => self.number(),
            },
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut values = Vec::new();
        self.space();
        if self.takes("]") {
            return Ok(Json::Array(values));
        }
        loop {
            self.space();
            values.push(self.value(depth + 1)?);
            self.space();
            if self.takes("]") {
                return Ok(Json::Array(values));
            }
            if !self.takes(",") {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.at += 1;
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut places = HashMap::new();
        self.space();
        if self.takes("}") {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in double quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.takes(":") {
                return Err(self.expected("`:`"));
            }
            self.space();
            let value = self.value(depth + 1)?;
            let place = *places.entry(key.clone()).or_insert(members.len());
            match members.get_mut(place) {
                Some(member) => member.1 = value,
                None => members.push((key, value)),
            }
            self.space();
            if self.takes("}") {
                return Ok(Json::Object(members));
            }
            if !self.takes(",") {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            string.push_str(&self.text[start..self.at]);
            match self.peek() {
                None => return Err(self.error(JsonProblem::OpenString)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => string.push(self.escape()?),
                Some(_) => return Err(self.error(JsonProblem::ControlCharacter)),
            }
        }
    }

    /// The character of an escape, a backslash being next.
    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let c = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode(start);
            }
            None => return Err(self.error(JsonProblem::OpenString)),
            _ => return Err(self.error(JsonProblem::Escape)),
        };
        self.at += 1;
        Ok(c)
    }

    /// The character of four hexadecimal digits, or of two times four.
    fn unicode(&mut self, start: usize) -> Result<char, JsonError> {
        let first = self.hex4()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let behind = self.at;
        if first < 0xdc00 && self.takes("\\u") {
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // Another character, which may begin a pair itself.
            self.at = behind;
        }
        self.lone_surrogate.get_or_insert(start);
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        let value = value.ok_or_else(|| self.error(JsonProblem::Escape))?;
        self.at += 4;
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        self.takes("-");
        let digits = if self.takes("0") { 1 } else { self.digits() };
        if digits == 0 {
            self.at = start;
            return Err(self.expected("a value"));
        }
        let whole = self.at;
        // A point or an exponent without digits is not part of the number.
        if self.takes(".") && self.digits() == 0 {
            self.at = whole;
        }
        let fraction = self.at;
        if self.takes("e") || self.takes("E") {
            let _signed = self.takes("+") || self.takes("-");
            if self.digits() == 0 {
                self.at = fraction;
            }
        }
        let written = &self.text[start..self.at];
        if self.at > whole {
            // Beyond the range of f64 it is infinity, as in Python.
            return Ok(Json::Float(written.parse().unwrap_or(f64::NAN)));
        }
        if digits > MAX_DIGITS {
            let problem = JsonProblem::TooManyDigits { limit: MAX_DIGITS };
            return Err(JsonError { offset: start, problem });
        }
        Ok(Json::Integer(Integer::from_digits(written)))
    }
}

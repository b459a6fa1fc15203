//! Single characters and classes of them: what follows a backslash or an opening square bracket.

use super::width::Width;
use super::{Item, Parser};

/// Methods give `None` where the pattern is wrong.
impl Parser<'_> {
    /// What follows a backslash outside of a class.
    pub(super) fn escape(&mut self) -> Option<Item> {
        let c = *self.rest.peek()?;
        match c {
            'A' | 'b' | 'B' | 'Z' => {
                self.rest.next();
                Some(Item::Nothing)
            }
            '1'..='9' => {
                let mut digits = String::new();
                while digits.len() < 2
                    && let Some(digit) = self.rest.next_if(char::is_ascii_digit)
                {
                    digits.push(digit);
                }
                let octal = |c: &char| ('0'..='7').contains(c);
                if digits.len() == 2
                    && digits.chars().all(|c| octal(&c))
                    && let Some(third) = self.rest.next_if(octal)
                {
                    // Three octal digits are a character, of at most a byte.
                    let byte = u32::from_str_radix(&format!("{digits}{third}"), 8).ok()?;
                    return (byte <= 0o377).then_some(Item::Once(Width::ONE));
                }
                Some(Item::Once(self.closed(digits.parse().ok()?)?))
            }
            _ => {
                self.character()?;
                Some(Item::Once(Width::ONE))
            }
        }
    }

    /// A character or, as `Some(None)`, a kind of them such as `\d`, after a backslash.
    fn character(&mut self) -> Option<Option<u32>> {
        let c = self.rest.next()?;
        let code = match c {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => return Some(None),
            'a' => 7,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            'U' => self.hex(8).filter(|code| *code <= u32::from(char::MAX))?,
            '0' => {
                let mut code = 0;
                for _ in 0..2 {
                    let digit = self.rest.next_if(|c| ('0'..='7').contains(c));
                    code = digit.and_then(|d| d.to_digit(8)).map_or(code, |d| code * 8 + d);
                }
                code
            }
            c if c.is_ascii_alphanumeric() => return None,
            c => u32::from(c),
        };
        Some(Some(code))
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        (0..digits).try_fold(0_u32, |code, _| Some((code << 4) | self.rest.next()?.to_digit(16)?))
    }

    /// What follows an opening square bracket.
    pub(super) fn class(&mut self) -> Option<Item> {
        self.takes('^');
        let mut first = true;
        loop {
            let c = self.rest.next()?;
            if c == ']' && !first {
                return Some(Item::Once(Width::ONE));
            }
            first = false;
            let low = self.member(c)?;
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                self.rest.next();
                let high = self.rest.next()?;
                let high = self.member(high)?;
                // Neither end may be a kind of characters.
                if low? > high? {
                    return None;
                }
            }
        }
    }

    fn member(&mut self, c: char) -> Option<Option<u32>> {
        if c != '\\' {
            return Some(Some(u32::from(c)));
        }
        match self.rest.peek()? {
            'b' => {
                self.rest.next();
                Some(Some(8))
            }
            '1'..='7' => {
                let mut code = 0;
                for _ in 0..3 {
                    let digit = self.rest.next_if(|c| ('0'..='7').contains(c));
                    code = digit.and_then(|d| d.to_digit(8)).map_or(code, |d| code * 8 + d);
                }
                (code <= 0o377).then_some(Some(code))
            }
            _ => self.character(),
        }
    }
}

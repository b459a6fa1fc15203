//! Whether a text is a regular expression by the grammar of Python's `re`, as mistral-common
//! demands it of the patterns in a schema. Nothing is matched here.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// Groups inside each other.
const MAX_DEPTH: usize = 100;

/// Most repetitions that Python counts.
const MAX_REPEAT: u64 = u32::MAX as u64 - 1;

/// Whether Python would compile it. The flag `x`, which lets white space and comments into a
/// pattern, is not followed.
pub(super) fn is_valid(pattern: &str) -> bool {
    let mut parser =
        Parser { rest: pattern.chars().peekable(), groups: Vec::new(), names: HashMap::new() };
    parser.global_flags().and_then(|()| parser.alternatives(0)).is_some()
        && parser.rest.peek().is_none()
}

/// How many characters a part can match, at least and at most.
#[derive(Clone, Copy, PartialEq)]
struct Width {
    least: u64,
    most: u64,
}

impl Width {
    const ZERO: Self = Self { least: 0, most: 0 };
    const ONE: Self = Self { least: 1, most: 1 };

    fn then(self, next: Self) -> Self {
        let most = self.most.saturating_add(next.most);
        Self { least: self.least.saturating_add(next.least), most }
    }

    fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    fn times(self, least: u64, most: u64) -> Self {
        Self { least: self.least.saturating_mul(least), most: self.most.saturating_mul(most) }
    }
}

/// What stands before a repetition.
enum Item {
    /// Nothing, or a place such as `^`.
    Nothing,
    Once(Width),
    Repeated,
}

struct Parser<'p> {
    rest: Peekable<Chars<'p>>,
    /// By number, from 1: its width, once it is closed.
    groups: Vec<Option<Width>>,
    names: HashMap<String, usize>,
}

/// Methods give `None` where the pattern is wrong.
impl Parser<'_> {
    fn takes(&mut self, c: char) -> bool {
        self.rest.next_if_eq(&c).is_some()
    }

    /// `(?i)` at the very start.
    fn global_flags(&mut self) -> Option<()> {
        loop {
            let mut ahead = self.rest.clone();
            let opens = ahead.next() == Some('(') && ahead.next() == Some('?');
            let flags: String = ahead.by_ref().take_while(char::is_ascii_alphabetic).collect();
            let end = flags.chars().count() + 2;
            if !opens || flags.is_empty() || self.rest.clone().nth(end) != Some(')') {
                return Some(());
            }
            let known = flags.chars().all(|flag| "aimsux".contains(flag));
            if !known || (flags.contains('a') && flags.contains('u')) {
                return None;
            }
            self.rest.nth(end);
        }
    }

    fn alternatives(&mut self, depth: usize) -> Option<Width> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut width = self.sequence(depth)?;
        while self.takes('|') {
            width = width.or(self.sequence(depth)?);
        }
        Some(width)
    }

    fn sequence(&mut self, depth: usize) -> Option<Width> {
        let mut total = Width::ZERO;
        let mut last = Item::Nothing;
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let repeat = match c {
                '*' => Some((0, u64::MAX)),
                '+' => Some((1, u64::MAX)),
                '?' => Some((0, 1)),
                '{' => self.counts()?,
                _ => None,
            };
            if let Some((least, most)) = repeat {
                let Item::Once(width) = last else { return None };
                // The item was counted once already.
                total.least -= width.least.min(total.least);
                total.most -= width.most.min(total.most);
                total = total.then(width.times(least, most));
                let _lazy = self.takes('?') || self.takes('+');
                last = Item::Repeated;
                continue;
            }
            last = match c {
                '^' | '$' => Item::Nothing,
                '(' => self.group(depth)?,
                '[' => self.class()?,
                '\\' => self.escape()?,
                _ => Item::Once(Width::ONE),
            };
            if let Item::Once(width) = last {
                total = total.then(width);
            }
        }
        Some(total)
    }

    /// `3}`, `3,}`, `,5}` or `3,5}`. Anything else makes the brace a character, `Some(None)`.
    fn counts(&mut self) -> Option<Option<(u64, u64)>> {
        let mut ahead = self.rest.clone();
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = ahead.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
        };
        let least = number();
        let comma = ahead.next_if_eq(&',').is_some();
        let mut most = String::new();
        while let Some(digit) = ahead.next_if(char::is_ascii_digit) {
            most.push(digit);
        }
        if ahead.next() != Some('}') || (least.is_empty() && !comma) {
            return Some(None);
        }
        self.rest = ahead;
        let value = |digits: &str, default| match digits {
            "" => Some(default),
            digits => digits.parse().ok().filter(|n| *n <= MAX_REPEAT),
        };
        let first = value(&least, 0)?;
        let last = if comma { value(&most, u64::MAX)? } else { first };
        (first <= last).then_some(Some((first, last)))
    }

    /// What follows an opening bracket, with the closing one.
    fn group(&mut self, depth: usize) -> Option<Item> {
        if !self.takes('?') {
            return self.capture(None, depth);
        }
        let item = match self.rest.next()? {
            ':' | '>' => Item::Once(self.alternatives(depth + 1)?),
            '=' | '!' => {
                self.alternatives(depth + 1)?;
                Item::Once(Width::ZERO)
            }
            '#' => {
                self.rest.by_ref().take_while(|c| *c != ')').for_each(drop);
                return Some(Item::Nothing);
            }
            '<' => {
                self.rest.next_if(|c| matches!(c, '=' | '!'))?;
                let width = self.alternatives(depth + 1)?;
                if width.least != width.most {
                    return None;
                }
                Item::Once(Width::ZERO)
            }
            'P' if self.takes('<') => {
                let name = self.name('>')?;
                return self.capture(Some(name), depth);
            }
            'P' if self.takes('=') => {
                let name = self.name(')')?;
                let group = *self.names.get(&name)?;
                return Some(Item::Once(self.closed(group)?));
            }
            '(' => self.conditional(depth)?,
            flag => self.flagged(flag, depth)?,
        };
        self.takes(')').then_some(item)
    }

    fn capture(&mut self, name: Option<String>, depth: usize) -> Option<Item> {
        self.groups.push(None);
        let number = self.groups.len();
        if let Some(name) = name
            && self.names.insert(name, number).is_some()
        {
            return None;
        }
        let width = self.alternatives(depth + 1)?;
        *self.groups.get_mut(number - 1)? = Some(width);
        self.takes(')').then_some(Item::Once(width))
    }

    /// The width of a group that is closed already.
    fn closed(&self, number: usize) -> Option<Width> {
        *self.groups.get(number.checked_sub(1)?)?
    }

    fn name(&mut self, end: char) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.rest.next()? {
                c if c == end => break,
                c if c.is_alphanumeric() || c == '_' => name.push(c),
                _ => return None,
            }
        }
        let first = name.chars().next()?;
        (!first.is_numeric()).then_some(name)
    }

    /// `(?(1)yes|no)`.
    fn conditional(&mut self, depth: usize) -> Option<Item> {
        let mut name = String::new();
        loop {
            match self.rest.next()? {
                ')' => break,
                c => name.push(c),
            }
        }
        match name.parse::<usize>() {
            Ok(number) => number.checked_sub(1).filter(|_| number <= MAX_DEPTH).map(drop)?,
            Err(_) => self.names.get(&name).map(drop)?,
        }
        let yes = self.sequence(depth + 1)?;
        let no = if self.takes('|') { self.sequence(depth + 1)? } else { Width::ZERO };
        Some(Item::Once(yes.or(no)))
    }

    /// `(?i:...)` or `(?i-s:...)`; flags for the whole pattern stand at its start alone.
    fn flagged(&mut self, first: char, depth: usize) -> Option<Item> {
        let mut flags = String::from(first);
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphabetic() || *c == '-') {
            flags.push(c);
        }
        let (on, off) = flags.split_once('-').unwrap_or((&flags, "i"));
        let on =
            on.chars().all(|c| "aimsux".contains(c)) && !(on.contains('a') && on.contains('u'));
        let off = !off.is_empty() && off.chars().all(|c| "imsx".contains(c));
        if !on || !off || !self.takes(':') {
            return None;
        }
        Some(Item::Once(self.alternatives(depth + 1)?))
    }

    /// What follows a backslash outside of a class.
    fn escape(&mut self) -> Option<Item> {
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
            'N' => {
                let named = self.takes('{');
                let name: String = self.rest.by_ref().take_while(|c| *c != '}').collect();
                return (named && !name.is_empty()).then_some(None);
            }
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
    fn class(&mut self) -> Option<Item> {
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

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn what_python_compiles_is_a_pattern() {
        for pattern in [
            "",
            "^[a-z]+$",
            r"^\d{4}-\d{2}-\d{2}$",
            r"[^]\]-]",
            "a{,3}b{2}c{2,}d{x}e{}",
            "(?i)(?P<year>[0-9]+)/(?P=year)",
            r"(a)\1",
            "(?:a|bc)*?(?=d)(?!e)(?<=ab|cd)(?<!f)",
            r"\u00e9\x41\n\.\-/",
            "(a)?(?(1)b|c)",
            "(?#note)a",
            "a++(?>b)",
            "(?s-i:.)",
            "[[]",
        ] {
            assert!(is_valid(pattern), "{pattern}");
        }
    }

    #[test]
    fn what_python_refuses_is_none() {
        for pattern in [
            "[",
            "(",
            ")",
            "a)",
            "*",
            "a**",
            "^*",
            "a|*",
            "(?",
            "(?P<1>a)",
            "(?P<n>a)(?P<n>b)",
            r"\p{L}",
            r"\",
            r"\1",
            r"(\1)",
            r"\x4",
            "[z-a]",
            r"[\d-z]",
            "a{3,2}",
            "(?<=a+)b",
            "(?y)",
            "a(?i)",
            "(?P=n)",
            r"\Q",
            "[a",
            "(?<n>a)",
        ] {
            assert!(!is_valid(pattern), "{pattern}");
        }
    }
}

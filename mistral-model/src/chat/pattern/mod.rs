//! Whether a text is a regular expression by the grammar of Python's `re`, as mistral-common
//! demands it of the patterns in a schema. Nothing is matched here.

mod characters;
mod width;

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use width::Width;

/// Groups inside each other.
const MAX_DEPTH: usize = 100;

/// Most repetitions that Python counts.
const MAX_REPEAT: u64 = u32::MAX as u64 - 1;

/// Whether Python would compile it. The flag `x`, which lets white space and comments into a
/// pattern, is not followed. Names of characters (`\N{EM DASH}`) are Python's alone: refused.
pub(super) fn is_valid(pattern: &str) -> bool {
    let (groups, names) = (Vec::new(), HashMap::new());
    let mut parser = Parser { rest: pattern.chars().peekable(), groups, names, asked_for: 0 };
    parser.global_flags().and_then(|()| parser.alternatives(0)).is_some()
        && parser.rest.peek().is_none()
        && parser.asked_for <= parser.groups.len()
}

/// What stands before a repetition.
enum Item {
    /// Nothing, or a place such as `^`.
    Nothing,
    Once(Width),
    Repeated,
    /// As if it were not there.
    Comment,
}

struct Parser<'p> {
    rest: Peekable<Chars<'p>>,
    /// By number, from 1: its width, once it is closed.
    groups: Vec<Option<Width>>,
    names: HashMap<String, usize>,
    /// The largest number of a group that a condition asks for; it may come later.
    asked_for: usize,
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
        let mut width = self.sequence(depth)?;
        while self.takes('|') {
            width = width.or(self.sequence(depth)?);
        }
        Some(width)
    }

    fn sequence(&mut self, depth: usize) -> Option<Width> {
        if depth > MAX_DEPTH {
            return None;
        }
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
            let item = match c {
                '^' | '$' => Item::Nothing,
                '(' => self.group(depth)?,
                '[' => self.class()?,
                '\\' => self.escape()?,
                _ => Item::Once(Width::ONE),
            };
            if let Item::Once(width) = item {
                total = total.then(width);
            }
            if !matches!(item, Item::Comment) {
                last = item;
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
                self.rest.by_ref().find(|c| *c == ')')?;
                return Some(Item::Comment);
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
            Ok(0) => return None,
            Ok(number) => self.asked_for = self.asked_for.max(number),
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
            "(?#note)a(?#note)*",
            "a++(?>b)",
            "(?s-i:.)",
            "[[]",
        ] {
            assert!(is_valid(pattern), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_cannot_be_nested_without_end() {
        assert!(is_valid(&("(?:".repeat(100) + &")".repeat(100))));
        for open in ["(", "(?:", "(?(1)", "(?="] {
            assert!(!is_valid(&(open.repeat(100_000) + &")".repeat(100_000))), "{open}");
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
            r"\N",
            r"\N{DASH}",
            r"[\N{EM DASH}]",
            r"\u{e9}",
            r"[\u{e9}]",
            r"\cA",
            r"[\cA]",
            r"\P{L}",
            r"[\p{L}]",
            r"\k<n>",
            r"\G",
            "[a",
            "(?<n>a)",
            "(?#",
            "(?(1)a)",
        ] {
            assert!(!is_valid(pattern), "{pattern}");
        }
    }
}

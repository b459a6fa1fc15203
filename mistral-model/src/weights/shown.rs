//! Words from a stranger's file, as a terminal may see them.

use std::fmt::{self, Display};

/// Characters of a word that are told.
const LONGEST: usize = 100;

/// A name or value of a file: what could move a cursor is escaped, and what is too long to be read
/// is cut.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for character in rest.by_ref().take(LONGEST) {
            write!(f, "{}", character.escape_debug())?;
        }
        match rest.count() {
            0 => Ok(()),
            more => write!(f, ".. ({more} more characters)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn plain_names_stay_and_others_are_escaped_and_cut() {
        let shown = |name: &str| Shown(name).to_string();
        assert_eq!(shown("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(shown("\u{1b}[2J\r\u{202e}ä"), "\\u{1b}[2J\\r\\u{202e}ä");
        assert_eq!(shown(&"x".repeat(100)), "x".repeat(100));
        assert_eq!(shown(&"x".repeat(103)), "x".repeat(100) + ".. (3 more characters)");
    }
}

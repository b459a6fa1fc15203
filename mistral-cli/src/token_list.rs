//! Token ids as text: `1,422,9`, one a line, or a JSON list.

use std::num::ParseIntError;
use std::str::FromStr;

/// Ids separated by commas, white space, or both; brackets around them, as JSON has, are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenList(pub(crate) Vec<u32>);

/// Characters of a word that a message shows: more than any id has.
const LONGEST: usize = 40;

/// A word that is no id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} at index {index} is no token id, expected a number from 0 to {}", u32::MAX)]
pub(crate) struct NotAToken {
    /// The word, or how it begins.
    found: String,
    /// Ids before it.
    index: usize,
    /// Why not.
    source: ParseIntError,
}

impl FromStr for TokenList {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let list = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        list.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty())
            .enumerate()
            .map(|(index, word)| {
                word.parse().map_err(|source| {
                    // A file that holds something else may be one word of megabytes.
                    let found = word.chars().take(LONGEST).collect();
                    NotAToken { found, index, source }
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::TokenList;

    #[test]
    fn commas_and_white_space_separate_ids() {
        let list: TokenList = " 1,22 ,\t3\n4294967295\r\n".parse().unwrap();
        assert_eq!(list.0, [1, 22, 3, u32::MAX]);
        let json: TokenList = "[1, 22, 3]\n".parse().unwrap();
        assert_eq!(json.0, [1, 22, 3]);
    }

    #[test]
    fn a_word_that_is_no_id_is_named_with_its_place() {
        for (text, found) in [("1 2 x3", "x3"), ("1,2,-3", "-3"), ("1,2,4294967296", "4294967296")]
        {
            let error = text.parse::<TokenList>().unwrap_err();
            assert_eq!((error.found.as_str(), error.index), (found, 2));
        }
        let error = "x".repeat(1 << 20).parse::<TokenList>().unwrap_err();
        assert!(error.to_string().len() < 200, "a message is no dump of a file");
    }
}

//! Text to ids by byte-pair merges, for vocabularies of SentencePiece's kind.
//!
//! 1. The text gets its mark in front, and U+2581 for each space.
//! 2. User-defined pieces are cut out where they stand, the longest first, from left to right.
//! 3. What is between them is cut into characters, and neighbours are merged, best first (`run.rs`).
//! 4. A character without a piece becomes its bytes, `<0xE9>`, or else the unknown piece.
//!
//! The merges come from the scores of a [`SentencePieces`] vocabulary (`scores.rs`) or from the list in
//! a `tokenizer.json`. Control and byte pieces take no part in them, so no text becomes one.
//!
//! Words are merged one by one, although the definition merges the whole text at once: between two
//! characters that stand next to each other in no merge, no join is ever possible (a *seam*), so
//! that the order of joins on one side does not matter on the other. With Mistral's vocabularies
//! that is before each word, and the queue stays as short as a word.

mod pair_table;
mod run;
mod scores;
mod user_pieces;

use std::collections::{HashMap, HashSet};

use super::error::TokenizerError;
use super::pieces::SPACE_MARK;
use pair_table::PairTable;
use run::{Merge, Run};
use user_pieces::UserPieces;

/// What is put in front of a text that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nothing.
    None,
    /// A mark.
    Mark,
    /// A mark, unless the text starts with a mark or a space.
    MarkUnlessThere,
}

/// What becomes of a character without a piece.
#[derive(Debug, Clone)]
pub(super) enum Fallback {
    /// The pieces of its bytes.
    Bytes(Box<[u32; 256]>),
    /// The unknown piece; one for several in a row, if `fused`.
    Unknown { id: u32, fused: bool },
    /// An error.
    None,
}

/// One way in which two pieces become one.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergeRule<'a> {
    pub(super) left: &'a str,
    pub(super) right: &'a str,
    /// Lower is better.
    pub(super) rank: u32,
    /// The piece that they become.
    pub(super) joined: u32,
}

/// What decides which ids a text has, besides the merges.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// Pieces that text becomes, one by one or by merges.
    pub(super) pieces: HashMap<&'a str, u32>,
    /// Pieces that are found in the text before any merge.
    pub(super) user_pieces: Vec<(Box<str>, u32)>,
    pub(super) fallback: Fallback,
    pub(super) prefix: Prefix,
    /// Whether spaces become marks.
    pub(super) marks_spaces: bool,
}

/// An encoder. Immutable: any number of threads may share one.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    /// The symbol of each character that is a piece or takes part in a merge.
    characters: HashMap<char, u32>,
    /// Symbols from here on are characters without a piece.
    first_spelled: u32,
    spelled: Vec<char>,
    merges: PairTable<Merge>,
    /// Characters that stand next to each other in a merge.
    seamless: PairTable<()>,
    user_pieces: UserPieces,
    fallback: Fallback,
    prefix: Prefix,
    marks_spaces: bool,
}

/// The symbols of texts: pieces have their ids, characters without a piece those above.
struct Symbols<'r, 'a> {
    pieces: &'r HashMap<&'a str, u32>,
    characters: HashMap<char, u32>,
    first_spelled: u32,
    spelled: Vec<char>,
}

impl<'r, 'a> Symbols<'r, 'a> {
    fn new(pieces: &'r HashMap<&'a str, u32>) -> Self {
        let characters = pieces.iter().filter_map(|(piece, id)| Some((only_char(piece)?, *id)));
        let largest = pieces.values().copied().max();
        Self {
            pieces,
            characters: characters.collect(),
            first_spelled: largest.map_or(0, |id| id + 1),
            spelled: Vec::new(),
        }
    }

    /// The symbol of a text, if it can be one.
    fn of(&mut self, text: &str) -> Option<u32> {
        if let Some(id) = self.pieces.get(text) {
            return Some(*id);
        }
        let character = only_char(text)?;
        let next = self.first_spelled + self.spelled.len() as u32;
        let symbol = *self.characters.entry(character).or_insert(next);
        if symbol == next {
            self.spelled.push(character);
        }
        Some(symbol)
    }
}

/// The character of a text that has just one.
fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

impl Bpe {
    /// Of several merges of the same two pieces the last counts, and those of other texts than
    /// pieces or single characters never apply.
    pub(super) fn new<'a>(
        rules: Rules<'a>,
        merges: impl IntoIterator<Item = MergeRule<'a>>,
    ) -> Self {
        let mut symbols = Symbols::new(&rules.pieces);
        let mut pairs = Vec::new();
        let mut joined_characters = HashSet::new();
        for MergeRule { left, right, rank, joined } in merges {
            let parts = symbols.of(left).zip(symbols.of(right));
            let ends = left.chars().next_back().zip(right.chars().next());
            let (Some((left, right)), Some((end, start))) = (parts, ends) else { continue };
            pairs.push((left, right, Merge { rank, joined }));
            joined_characters.insert((end, start));
        }
        // Characters that have become no symbol are next to none.
        let symbol = |character| symbols.characters.get(&character).copied();
        let seamless = joined_characters
            .into_iter()
            .filter_map(|(end, start)| Some((symbol(end)?, symbol(start)?, ())))
            .collect();
        let n_symbols = symbols.first_spelled as usize + symbols.spelled.len();
        Self {
            first_spelled: symbols.first_spelled,
            merges: PairTable::new(n_symbols, pairs),
            seamless: PairTable::new(n_symbols, seamless),
            characters: symbols.characters,
            spelled: symbols.spelled,
            user_pieces: UserPieces::new(rules.user_pieces),
            fallback: rules.fallback,
            prefix: rules.prefix,
            marks_spaces: rules.marks_spaces,
        }
    }

    /// Appends the ids of a text. Returns how many candidates merging looked at: less than three for
    /// each character, whatever the text.
    ///
    /// # Errors
    ///
    /// - [`TokenizerError::NoPiece`]: a character without a piece, and no fallback.
    /// - [`TokenizerError::TextTooLong`]: 4 GiB or more.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<usize, TokenizerError> {
        let text = self.marked(text);
        let limit = u32::MAX as usize - 1;
        if text.len() > limit {
            return Err(TokenizerError::TextTooLong { found: text.len(), limit });
        }
        let mut out = Output { bpe: self, ids, after_unknown: false };
        let (mut run, mut candidates) = (Run::default(), 0);
        let mut rest = text.as_str();
        while let Some(character) = rest.chars().next() {
            let mut taken = character.len_utf8();
            if let Some((id, len)) = self.user_pieces.longest_prefix(rest) {
                candidates += out.merge(&mut run)?;
                out.piece(id);
                taken = len;
            } else if let Some(symbol) = self.characters.get(&character).copied() {
                if run.last().is_some_and(|last| self.seamless.get(last, symbol).is_none()) {
                    candidates += out.merge(&mut run)?;
                }
                run.push(symbol);
            } else {
                candidates += out.merge(&mut run)?;
                out.spell(character)?;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(candidates + out.merge(&mut run)?)
    }

    /// The text as the pieces are written.
    fn marked(&self, text: &str) -> String {
        let spaces = if self.marks_spaces { text.matches(' ').count() } else { 0 };
        let mut marked = String::with_capacity(text.len() + 2 * spaces + SPACE_MARK.len_utf8());
        let is_mark = |c: char| c == SPACE_MARK || (self.marks_spaces && c == ' ');
        match (self.prefix, text.chars().next()) {
            (Prefix::None, _) | (_, None) => {}
            (Prefix::MarkUnlessThere, Some(first)) if is_mark(first) => {}
            (Prefix::Mark | Prefix::MarkUnlessThere, Some(_)) => marked.push(SPACE_MARK),
        }
        if self.marks_spaces {
            marked.extend(text.chars().map(|c| if c == ' ' { SPACE_MARK } else { c }));
        } else {
            marked.push_str(text);
        }
        marked
    }
}

/// The ids so far.
struct Output<'a> {
    bpe: &'a Bpe,
    ids: &'a mut Vec<u32>,
    /// The last of them is the unknown piece.
    after_unknown: bool,
}

impl Output<'_> {
    fn piece(&mut self, id: u32) {
        self.ids.push(id);
        self.after_unknown = false;
    }

    /// Merges a run and writes what is left of it, so that the next can begin.
    fn merge(&mut self, run: &mut Run) -> Result<usize, TokenizerError> {
        let candidates = run.merge(&self.bpe.merges);
        for symbol in run.symbols() {
            let spelled = symbol.checked_sub(self.bpe.first_spelled);
            match spelled.and_then(|index| self.bpe.spelled.get(index as usize)) {
                Some(character) => self.spell(*character)?,
                None => self.piece(symbol),
            }
        }
        run.clear();
        Ok(candidates)
    }

    /// Writes a character without a piece.
    fn spell(&mut self, character: char) -> Result<(), TokenizerError> {
        match &self.bpe.fallback {
            Fallback::Bytes(pieces) => {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    self.piece(pieces[usize::from(byte)]);
                }
            }
            Fallback::Unknown { id, fused } => {
                if !(self.after_unknown && *fused) {
                    self.ids.push(*id);
                }
                self.after_unknown = true;
            }
            Fallback::None => return Err(TokenizerError::NoPiece { character }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::sentencepiece::SentencePieces;

    fn published() -> Bpe {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer");
        let bytes = std::fs::read(format!("{folder}/v2/tokenizer.model")).unwrap();
        Bpe::of_scores(&SentencePieces::from_model(&bytes).unwrap()).unwrap()
    }

    #[test]
    fn work_grows_with_the_length_of_a_line_and_no_faster() {
        let bpe = published();
        let lines: [fn(usize) -> String; 6] = [
            |n| "a".repeat(n),
            |n| " ".repeat(n),
            |n| "=".repeat(n),
            |n| "ab".repeat(n / 2),
            |n| "the quick brown fox ".repeat(n / 20),
            // Letters in an order without a period.
            |n| (0..n as u64).map(|i| char::from(b'a' + (i * i * i % 1009 % 26) as u8)).collect(),
        ];
        for line in lines {
            let work = |n: usize| {
                let mut ids = Vec::new();
                let candidates = bpe.encode(&line(n), &mut ids).unwrap();
                assert!(candidates < 3 * (n + 1), "{candidates} candidates for {n} characters");
                candidates as f64
            };
            let (once, twice, eightfold) = (work(20_000), work(40_000), work(160_000));
            assert!(twice < 2.05 * once && eightfold < 8.2 * once, "{once} {twice} {eightfold}");
        }
    }

    #[test]
    fn words_are_merged_one_by_one() {
        let bpe = published();
        let symbol = |c: char| bpe.characters.get(&c).copied().unwrap();
        let joins = |a, b| bpe.seamless.get(symbol(a), symbol(b)).is_some();
        assert!(joins('t', 'h') && joins(SPACE_MARK, 't') && joins(SPACE_MARK, SPACE_MARK));
        for end in ['e', '.', '7', '\u{e9}'] {
            assert!(!joins(end, SPACE_MARK), "{end}");
        }
    }
}

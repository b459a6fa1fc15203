//! Pieces to text, one at a time, by SentencePiece's rules.
//!
//! - The mark U+2581 becomes a space, but the first one of a whole sequence vanishes: it was put
//!   there when the text was encoded. Controls before it, as `<s>`, do not count.
//! - Byte pieces in a row join up to characters. A byte that can belong to no character becomes
//!   U+FFFD, one for each byte, as soon as that is certain. Any other piece ends the row.
//! - Controls vanish; an unknown piece becomes `" ⁇ "`.

use super::pieces::{Kind, Piece, SPACE_MARK};

/// What SentencePiece writes for a piece that stands for unknown text.
const UNKNOWN: &str = " \u{2047} ";

/// Where in a sequence decoding stands.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    /// The next piece that is no control is the first of the sequence.
    at_start: bool,
    /// Bytes of a character that is not finished; they may still become one.
    begun: [u8; 4],
    len: usize,
}

impl Decoder {
    /// At the start of a sequence, where a space is dropped if `drop_space`.
    pub(super) fn new(drop_space: bool) -> Self {
        Self { at_start: drop_space, begun: [0; 4], len: 0 }
    }

    /// Appends to `text` what is certain once `piece` follows.
    pub(super) fn push(&mut self, piece: &Piece, text: &mut String) {
        match piece.kind {
            Kind::Byte(byte) => {
                self.at_start = false;
                self.push_byte(byte, text);
            }
            Kind::Control => self.finish(text),
            Kind::Unknown => {
                self.finish(text);
                self.at_start = false;
                text.push_str(UNKNOWN);
            }
            Kind::Text => {
                self.finish(text);
                let mut written = &*piece.written;
                if self.at_start {
                    written = written.strip_prefix(SPACE_MARK).unwrap_or(written);
                }
                self.at_start = false;
                for (index, part) in written.split(SPACE_MARK).enumerate() {
                    if index > 0 {
                        text.push(' ');
                    }
                    text.push_str(part);
                }
            }
        }
    }

    /// No byte follows: what is begun stays unfinished.
    pub(crate) fn finish(&mut self, text: &mut String) {
        text.extend((0..self.len).map(|_| char::REPLACEMENT_CHARACTER));
        self.len = 0;
    }

    fn push_byte(&mut self, byte: u8, text: &mut String) {
        // At most three bytes are begun, as four are always a character or an error.
        self.begun[self.len] = byte;
        self.len += 1;
        while self.len > 0 {
            let taken = match std::str::from_utf8(&self.begun[..self.len]) {
                Ok(character) => {
                    text.push_str(character);
                    self.len
                }
                // Cut short, so far.
                Err(error) if error.error_len().is_none() => return,
                // The first byte starts no character; those after it may.
                Err(_) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    1
                }
            };
            self.begun.copy_within(taken.., 0);
            self.len -= taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(kinds: &[(&str, Kind)]) -> Vec<String> {
        let mut decoder = Decoder::new(true);
        let mut chunks: Vec<String> = Vec::new();
        for &(written, kind) in kinds {
            let mut chunk = String::new();
            let written = written.into();
            decoder.push(&Piece { written, kind }, &mut chunk);
            chunks.push(chunk);
        }
        let mut rest = String::new();
        decoder.finish(&mut rest);
        chunks.push(rest);
        chunks
    }

    fn bytes(bytes: &[u8]) -> Vec<String> {
        let kinds: Vec<_> = bytes.iter().map(|&b| ("", Kind::Byte(b))).collect();
        text_of(&kinds)
    }

    #[test]
    fn only_the_first_mark_of_a_sequence_vanishes() {
        let chunks = text_of(&[
            ("<s>", Kind::Control),
            ("\u{2581}\u{2581}a", Kind::Text),
            ("\u{2581}b\u{2581}", Kind::Text),
        ]);
        assert_eq!(chunks, ["", " a", " b ", ""]);
        let chunks = text_of(&[("<0x20>", Kind::Byte(32)), ("\u{2581}a", Kind::Text)]);
        assert_eq!(chunks, [" ", " a", ""]);
    }

    #[test]
    fn a_character_comes_out_with_its_last_byte() {
        assert_eq!(bytes("é😀!".as_bytes()), ["", "é", "", "", "", "😀", "!", ""]);
    }

    #[test]
    fn a_byte_is_replaced_as_soon_as_it_can_belong_to_no_character() {
        assert_eq!(bytes(&[0x80]), ["\u{fffd}", ""]);
        assert_eq!(bytes(&[0xC0, 0x80]), ["\u{fffd}", "\u{fffd}", ""]);
        // A surrogate is refused at its second byte, a number above 10FFFF as well.
        assert_eq!(bytes(&[0xED, 0xA0]), ["", "\u{fffd}\u{fffd}", ""]);
        assert_eq!(bytes(&[0xF4, 0x90]), ["", "\u{fffd}\u{fffd}", ""]);
        // The second lead byte starts a character of its own.
        assert_eq!(bytes(&[0xE2, 0xC3, 0xA9]), ["", "\u{fffd}", "é", ""]);
        assert_eq!(bytes(&[0xF0, 0x9F]), ["", "", "\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn any_other_piece_ends_a_row_of_bytes() {
        for (kind, written, shown) in [
            (Kind::Control, "<s>", ""),
            (Kind::Text, "\u{2581}a", " a"),
            (Kind::Unknown, "<unk>", " \u{2047} "),
        ] {
            let row = [("", Kind::Byte(0xE2)), (written, kind), ("", Kind::Byte(0x82))];
            let second = format!("\u{fffd}{shown}");
            assert_eq!(text_of(&row), ["", &second, "\u{fffd}", ""]);
        }
    }
}

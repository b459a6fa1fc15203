//! `mistral tokenize`: a text to its tokens.

use std::fmt::Write;

use serde::Serialize;

use super::{print, print_json};
use crate::args::TokenizeArgs;
use crate::failure::Failure;
use crate::input;
use crate::model::{self, ModelSource};

#[derive(Serialize)]
struct Tokens<'a> {
    text: &'a str,
    ids: &'a [u32],
    pieces: Vec<&'a str>,
}

pub(crate) fn run(args: &TokenizeArgs) -> Result<(), Failure> {
    let text = input::text(&args.text)?;
    let source = ModelSource::new(args.model.as_deref());
    let tokenizer = source.tokenizer(args.tokenizer.format())?;
    let ids = model::encode(&tokenizer, &text)?;
    let pieces = ids.iter().map(|id| tokenizer.piece(*id).unwrap_or_default());
    if args.json {
        return print_json(&Tokens { text: &text, ids: &ids, pieces: pieces.collect() });
    }
    let mut lines = String::new();
    for (id, piece) in ids.iter().zip(pieces) {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{id}\t{}", on_one_line(piece));
    }
    print(&lines)
}

/// Control characters escaped, so that a piece never breaks its line.
fn on_one_line(piece: &str) -> String {
    let mut line = String::new();
    for c in piece.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_piece_stays_on_its_line() {
        assert_eq!(super::on_one_line("a\n\tb\u{2581}é"), "a\\n\\tb\u{2581}é");
    }
}

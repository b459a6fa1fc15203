//! SentencePiece's own files, as Mistral publishes them: `tokenizer.model`, `tokenizer.model.v3`.
//!
//! ```text
//! ModelProto      1 pieces (repeated), 2 trainer_spec, 3 normalizer_spec, 5 denormalizer_spec
//! SentencePiece   1 piece, 2 score, 3 type
//! ```
//!
//! Fields that do not bear on ids or texts are skipped. A setting under which ids would be others
//! than `bpe/` gives is refused by name.

use super::error::{ModelFileError, PieceProblem};
use super::settings::{BPE, Settings};
use super::wire::{Message, MessageWriter};
use super::{Checker, PieceType, SentencePieces};

/// Bytes accepted: thirteen times the largest of Mistral's.
pub(in crate::tokenizer) const MAX_BYTES: u64 = 8 << 20;

/// A piece as the file has it.
fn read_piece(message: Message<'_>, id: usize) -> Result<(&str, f32, PieceType), ModelFileError> {
    let (mut piece, mut score, mut kind) = ("", 0.0, PieceType::Normal);
    for field in message {
        let field = field?;
        match field.number {
            1 => piece = field.text()?,
            2 => score = field.float()?,
            3 => {
                let found = field.integer()?;
                kind = PieceType::from_number(found).ok_or(ModelFileError::Piece {
                    id,
                    offset: field.offset,
                    problem: PieceProblem::Type { found },
                })?;
            }
            _ => {}
        }
    }
    Ok((piece, score, kind))
}

impl SentencePieces {
    /// Reads a `.model` file of SentencePiece.
    ///
    /// The file may come from a stranger: nothing is allocated that its bytes do not account for.
    ///
    /// # Errors
    ///
    /// - [`ModelFileError::TooLong`]: more than 8 MiB.
    /// - [`ModelFileError::Truncated`], [`ModelFileError::IntegerTooLong`],
    ///   [`ModelFileError::FieldNumber`], [`ModelFileError::WireType`],
    ///   [`ModelFileError::FieldType`], [`ModelFileError::NotUtf8`]: a damaged file, or of another kind.
    /// - [`ModelFileError::Piece`]: a piece that is empty, there already, too long, or of no known type.
    /// - [`ModelFileError::NoPieces`], [`ModelFileError::NoUnknown`],
    ///   [`ModelFileError::BytePieces`]: a vocabulary that is not whole.
    /// - [`ModelFileError::Unsupported`]: not byte-pair merges, or a setting that Mistral's do not have.
    pub fn from_model(bytes: &[u8]) -> Result<Self, ModelFileError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ModelFileError::TooLong { found: bytes.len() as u64, limit: MAX_BYTES });
        }
        let mut settings = Settings::defaults(bytes.len());
        let mut checker = Checker::default();
        let mut pieces = Vec::new();
        for field in Message::new(bytes) {
            let field = field?;
            match field.number {
                1 => {
                    let id = pieces.len();
                    let (piece, score, kind) = read_piece(field.message()?, id)?;
                    checker.add(piece, score, kind).map_err(|problem| ModelFileError::Piece {
                        id,
                        offset: field.offset,
                        problem,
                    })?;
                    pieces.push((piece.to_owned(), score, kind));
                }
                2 => settings.read_trainer(field.message()?)?,
                3 => settings.read_normalizer(field.message()?)?,
                5 => settings.read_denormalizer(field.message()?)?,
                _ => {}
            }
        }
        if pieces.is_empty() {
            return Err(ModelFileError::NoPieces);
        }
        settings.check(checker.bytes)?;
        if checker.unknown.is_none() {
            return Err(ModelFileError::NoUnknown);
        }
        let expected = if settings.byte_fallback.value { 256 } else { 0 };
        if checker.bytes != expected {
            return Err(ModelFileError::BytePieces { found: checker.bytes });
        }
        let bos = checker.ids.get(settings.bos_piece.value).copied();
        let bos = bos.filter(|id| matches!(pieces.get(*id), Some((_, _, PieceType::Control))));
        Ok(Self {
            bos: bos.and_then(|id| u32::try_from(id).ok()),
            space_before_text: settings.add_dummy_prefix.value,
            pieces,
        })
    }

    /// Writes a `.model` file that gives the same ids, here and in SentencePiece.
    ///
    /// Reading it back gives these pieces, if there is one of type unknown, which SentencePiece needs.
    pub fn to_model(&self) -> Vec<u8> {
        let mut file = MessageWriter::default();
        let mut has_bytes = false;
        for (id, (piece, score, _)) in self.pieces.iter().enumerate() {
            let kind = self.type_of(id).unwrap_or(PieceType::Normal);
            has_bytes |= kind == PieceType::Byte;
            let mut message = MessageWriter::default();
            message.bytes(1, piece.as_bytes());
            message.float(2, *score);
            message.integer(3, kind.number());
            file.bytes(1, &message.bytes);
        }
        let bos = self.bos.and_then(|bos| self.pieces.get(bos as usize));
        let mut trainer = MessageWriter::default();
        trainer.integer(3, BPE);
        trainer.integer(4, self.pieces.len() as u64);
        trainer.integer(35, u64::from(has_bytes));
        trainer.bytes(46, bos.map_or("", |(piece, ..)| piece).as_bytes());
        file.bytes(2, &trainer.bytes);
        let mut normalizer = MessageWriter::default();
        normalizer.bytes(1, b"identity");
        normalizer.integer(3, u64::from(self.space_before_text));
        normalizer.integer(4, 0);
        file.bytes(3, &normalizer.bytes);
        file.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small file in parts that a test can bend.
    fn file(trainer: &[(u64, &str)], normalizer: &[(u64, &str)]) -> Vec<u8> {
        let spec = |fields: &[(u64, &str)]| {
            let mut spec = MessageWriter::default();
            for (number, value) in fields {
                match value.parse() {
                    Ok(integer) => spec.integer(*number, integer),
                    Err(_) => spec.bytes(*number, value.as_bytes()),
                }
            }
            spec.bytes
        };
        let mut file = MessageWriter::default();
        for (piece, kind) in [("<unk>", 2), ("<s>", 3), ("a", 1)] {
            let mut message = MessageWriter::default();
            message.bytes(1, piece.as_bytes());
            message.integer(3, kind);
            file.bytes(1, &message.bytes);
        }
        file.bytes(2, &spec(trainer));
        file.bytes(3, &spec(normalizer));
        file.bytes
    }

    const PLAIN: &[(u64, &str)] = &[(3, "2")];
    const AS_IT_IS: &[(u64, &str)] = &[(4, "0")];

    #[test]
    fn a_file_that_leaves_out_what_is_usual_is_read() {
        let pieces = SentencePieces::from_model(&file(PLAIN, AS_IT_IS)).unwrap();
        assert_eq!((pieces.pieces.len(), pieces.bos), (3, Some(1)));
        assert!(pieces.space_before_text);
        let bare = file(&[(3, "2"), (46, "a")], &[(4, "0"), (3, "0")]);
        let pieces = SentencePieces::from_model(&bare).unwrap();
        assert_eq!(pieces.bos, None, "\"a\" is no control");
        assert!(!pieces.space_before_text);
    }

    #[test]
    fn settings_that_bend_ids_are_refused_by_name() {
        let named = |trainer: &[(u64, &str)], normalizer: &[(u64, &str)]| {
            let bytes = file(trainer, normalizer);
            match SentencePieces::from_model(&bytes) {
                Err(ModelFileError::Unsupported { setting, found, offset, .. }) => {
                    assert!(offset <= bytes.len());
                    (setting, found, offset == bytes.len())
                }
                other => panic!("{other:?}"),
            }
        };
        let unigram = ("trainer_spec.model_type", "1 (UNIGRAM)".to_owned());
        assert_eq!(named(&[], AS_IT_IS), (unigram.0, unigram.1.clone(), true));
        assert_eq!(named(&[(3, "1")], AS_IT_IS), (unigram.0, unigram.1, false));
        for (trainer, normalizer, expected) in [
            (&[(3, "2"), (24, "1")], AS_IT_IS, "trainer_spec.treat_whitespace_as_suffix"),
            (&[(3, "2"), (44, "?")], AS_IT_IS, "trainer_spec.unk_surface"),
        ] {
            assert_eq!(named(trainer, normalizer).0, expected);
        }
        let rules = named(PLAIN, &[(4, "0"), (1, "nmt_nfkc"), (2, "rules")]);
        assert_eq!(rules.0, "normalizer_spec.precompiled_charsmap");
        assert_eq!(rules.1, "\"nmt_nfkc\" with 5 bytes");
        assert_eq!(named(PLAIN, &[]).0, "normalizer_spec.remove_extra_whitespaces");
        let escape = named(PLAIN, &[(4, "0"), (5, "0")]).0;
        assert_eq!(escape, "normalizer_spec.escape_whitespaces");
        let mut denormalizing = file(PLAIN, AS_IT_IS);
        denormalizing.extend([5 << 3 | 2, 3, 2 << 3 | 2, 1, b'x']);
        let error = SentencePieces::from_model(&denormalizing).unwrap_err();
        assert!(error.to_string().contains("denormalizer_spec"), "{error}");
    }

    #[test]
    fn byte_fallback_and_byte_pieces_come_together() {
        let error = SentencePieces::from_model(&file(&[(3, "2"), (35, "1")], AS_IT_IS));
        assert!(matches!(error, Err(ModelFileError::BytePieces { found: 0 })));
        let mut with_byte = file(PLAIN, AS_IT_IS);
        let mut piece = MessageWriter::default();
        piece.bytes(1, b"<0x41>");
        piece.integer(3, 6);
        let mut message = MessageWriter::default();
        message.bytes(1, &piece.bytes);
        with_byte.extend(&message.bytes);
        let error = SentencePieces::from_model(&with_byte).unwrap_err();
        assert!(error.to_string().contains("false, beside 1 byte pieces"), "{error}");
    }

    #[test]
    fn pieces_that_cannot_be_are_refused_with_their_place() {
        let whole = file(PLAIN, AS_IT_IS);
        let add = |fields: &[u8]| {
            let mut bytes = whole.clone();
            bytes.extend([0x0A, fields.len() as u8]);
            bytes.extend(fields);
            SentencePieces::from_model(&bytes).unwrap_err()
        };
        for (fields, expected) in [
            (&[0x0A, 1, b'a'][..], PieceProblem::Duplicate { piece: "a".into(), first: 2 }),
            (&[], PieceProblem::Empty),
            (&[0x0A, 1, b'b', 0x15, 0, 0, 0xC0, 0x7F], PieceProblem::Score { piece: "b".into() }),
            (
                &[0x0A, 1, b'b', 0x18, 2],
                PieceProblem::SecondUnknown { piece: "b".into(), first: 0 },
            ),
        ] {
            match add(fields) {
                ModelFileError::Piece { id: 3, offset, problem } => {
                    assert_eq!((offset, problem), (whole.len(), expected));
                }
                other => panic!("{other:?}"),
            }
        }
        let of_no_type = add(&[0x0A, 1, b'b', 0x18, 7]);
        let place = whole.len() + 5;
        assert!(matches!(of_no_type, ModelFileError::Piece {
            problem: PieceProblem::Type { found: 7 }, offset, .. } if offset == place));
        let not_text = add(&[0x0A, 2, b'b', 0xFF]);
        assert!(matches!(not_text, ModelFileError::NotUtf8 { field: 1, offset }
            if offset == whole.len() + 5));
    }

    #[test]
    fn files_without_a_vocabulary_are_told_so() {
        assert!(matches!(SentencePieces::from_model(b""), Err(ModelFileError::NoPieces)));
        let no_unknown = SentencePieces {
            pieces: vec![("a".to_owned(), 0.0, PieceType::Normal)],
            bos: None,
            space_before_text: true,
        };
        let error = SentencePieces::from_model(&no_unknown.to_model());
        assert!(matches!(error, Err(ModelFileError::NoUnknown)));
    }
}

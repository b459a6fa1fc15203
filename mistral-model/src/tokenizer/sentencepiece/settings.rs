//! The settings in a `.model` file that bear on ids and texts: `trainer_spec` and the normalizers.
//!
//! ```text
//! TrainerSpec     3 model_type, 24 treat_whitespace_as_suffix, 35 byte_fallback, 44 unk_surface, 46 bos_piece
//! NormalizerSpec  1 name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces,
//!                 5 escape_whitespaces
//! ```

use super::error::ModelFileError;
use super::wire::{Field, Message};

/// `model_type` of byte-pair merges.
pub(super) const BPE: u64 = 2;

/// What decoding writes for the unknown piece.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// A setting, and where in the file it stands.
#[derive(Debug, Clone)]
pub(super) struct Setting<T> {
    pub(super) value: T,
    offset: usize,
}

impl<T> Setting<T> {
    fn set(&mut self, value: T, field: &Field<'_>) {
        *self = Self { value, offset: field.offset };
    }

    fn expect(
        &self,
        right: bool,
        setting: &'static str,
        found: impl Into<String>,
        expected: &'static str,
    ) -> Result<(), ModelFileError> {
        if right {
            return Ok(());
        }
        Err(ModelFileError::Unsupported {
            setting,
            found: found.into(),
            expected,
            offset: self.offset,
        })
    }
}

/// The settings that bear on ids and texts.
#[derive(Debug, Clone)]
pub(super) struct Settings<'a> {
    model_type: Setting<u64>,
    whitespace_as_suffix: Setting<bool>,
    pub(super) byte_fallback: Setting<bool>,
    unknown_surface: Setting<&'a str>,
    pub(super) bos_piece: Setting<&'a str>,
    normalizer_name: Setting<&'a str>,
    normalizer_rules: Setting<usize>,
    pub(super) add_dummy_prefix: Setting<bool>,
    remove_extra_whitespaces: Setting<bool>,
    escape_whitespaces: Setting<bool>,
    denormalizer_rules: Setting<usize>,
}

impl<'a> Settings<'a> {
    /// What SentencePiece takes where a file of `len` bytes says nothing.
    pub(super) fn defaults(len: usize) -> Self {
        fn left_out<T>(value: T, offset: usize) -> Setting<T> {
            Setting { value, offset }
        }
        Self {
            model_type: left_out(1, len),
            whitespace_as_suffix: left_out(false, len),
            byte_fallback: left_out(false, len),
            unknown_surface: left_out(UNKNOWN_SURFACE, len),
            bos_piece: left_out("<s>", len),
            normalizer_name: left_out("", len),
            normalizer_rules: left_out(0, len),
            add_dummy_prefix: left_out(true, len),
            remove_extra_whitespaces: left_out(true, len),
            escape_whitespaces: left_out(true, len),
            denormalizer_rules: left_out(0, len),
        }
    }

    pub(super) fn read_trainer(&mut self, message: Message<'a>) -> Result<(), ModelFileError> {
        for field in message {
            let field = field?;
            match field.number {
                3 => self.model_type.set(field.integer()?, &field),
                24 => self.whitespace_as_suffix.set(field.flag()?, &field),
                35 => self.byte_fallback.set(field.flag()?, &field),
                44 => self.unknown_surface.set(field.text()?, &field),
                46 => self.bos_piece.set(field.text()?, &field),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn read_normalizer(&mut self, message: Message<'a>) -> Result<(), ModelFileError> {
        for field in message {
            let field = field?;
            match field.number {
                1 => self.normalizer_name.set(field.text()?, &field),
                2 => self.normalizer_rules.set(field.bytes()?.len(), &field),
                3 => self.add_dummy_prefix.set(field.flag()?, &field),
                4 => self.remove_extra_whitespaces.set(field.flag()?, &field),
                5 => self.escape_whitespaces.set(field.flag()?, &field),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn read_denormalizer(&mut self, message: Message<'a>) -> Result<(), ModelFileError> {
        for field in message {
            let field = field?;
            if field.number == 2 {
                self.denormalizer_rules.set(field.bytes()?.len(), &field);
            }
        }
        Ok(())
    }

    /// Refuses settings under which ids would be others, by the name that SentencePiece has for them.
    pub(super) fn check(&self, byte_pieces: usize) -> Result<(), ModelFileError> {
        let name = match self.model_type.value {
            1 => "UNIGRAM",
            BPE => "BPE",
            3 => "WORD",
            4 => "CHAR",
            _ => "of an unknown kind",
        };
        let found = format!("{} ({name})", self.model_type.value);
        let is_bpe = self.model_type.value == BPE;
        self.model_type.expect(is_bpe, "trainer_spec.model_type", found, "2 (BPE)")?;
        self.whitespace_as_suffix.expect(
            !self.whitespace_as_suffix.value,
            "trainer_spec.treat_whitespace_as_suffix",
            "true",
            "false",
        )?;
        self.unknown_surface.expect(
            self.unknown_surface.value == UNKNOWN_SURFACE,
            "trainer_spec.unk_surface",
            format!("{:?}", self.unknown_surface.value),
            "\" \u{2047} \"",
        )?;
        self.byte_fallback.expect(
            self.byte_fallback.value || byte_pieces == 0,
            "trainer_spec.byte_fallback",
            format!("false, beside {byte_pieces} byte pieces"),
            "true",
        )?;
        let found = format!("{:?} with {} bytes", self.normalizer_name.value, {
            self.normalizer_rules.value
        });
        self.normalizer_rules.expect(
            self.normalizer_rules.value == 0,
            "normalizer_spec.precompiled_charsmap",
            found,
            "\"identity\" with none: text is taken as it is",
        )?;
        self.remove_extra_whitespaces.expect(
            !self.remove_extra_whitespaces.value,
            "normalizer_spec.remove_extra_whitespaces",
            "true",
            "false: text is taken as it is",
        )?;
        self.escape_whitespaces.expect(
            self.escape_whitespaces.value,
            "normalizer_spec.escape_whitespaces",
            "false",
            "true: U+2581 stands for a space",
        )?;
        self.denormalizer_rules.expect(
            self.denormalizer_rules.value == 0,
            "denormalizer_spec.precompiled_charsmap",
            format!("{} bytes", self.denormalizer_rules.value),
            "none: text is given as it is",
        )
    }
}

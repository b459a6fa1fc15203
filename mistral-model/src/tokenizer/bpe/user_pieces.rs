//! Pieces that are found in a text before anything is merged, as `[REFERENCE_DOC_3]`.

/// User-defined pieces, ready to be looked for.
#[derive(Debug, Clone)]
pub(super) struct UserPieces {
    /// Sorted by their bytes.
    pieces: Vec<(Box<str>, u32)>,
    /// Whether a piece begins with this byte: most positions of a text are done with that.
    begins: [bool; 256],
}

impl UserPieces {
    pub(super) fn new(mut pieces: Vec<(Box<str>, u32)>) -> Self {
        pieces.sort_unstable();
        let mut begins = [false; 256];
        for (piece, _) in &pieces {
            if let Some(first) = piece.bytes().next() {
                begins[usize::from(first)] = true;
            }
        }
        Self { pieces, begins }
    }

    /// The longest piece that `text` starts with: its id and its bytes.
    #[inline]
    pub(super) fn longest_prefix(&self, text: &str) -> Option<(u32, usize)> {
        let first = text.bytes().next()?;
        if !self.begins[usize::from(first)] {
            return None;
        }
        let mut candidates = self.pieces.as_slice();
        let mut longest = None;
        for (depth, byte) in text.bytes().enumerate() {
            // Those that have been equal so far, and go on with this byte.
            let next = |piece: &str| piece.as_bytes().get(depth).copied();
            let from = candidates.partition_point(|(piece, _)| next(piece) < Some(byte));
            let to = candidates.partition_point(|(piece, _)| next(piece) <= Some(byte));
            candidates = candidates.get(from..to)?;
            // The shortest comes first.
            let (piece, id) = candidates.first().map_or(("", 0), |(piece, id)| (piece, *id));
            if piece.len() == depth + 1 {
                longest = Some((id, piece.len()));
            }
            if candidates.is_empty() {
                break;
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_of_several_is_found() {
        let pieces = ["[A]", "[A]x", "[A]xyz", "é", "b"];
        let pieces = pieces.iter().zip(10..).map(|(piece, id)| ((*piece).into(), id)).collect();
        let pieces = UserPieces::new(pieces);
        assert_eq!(pieces.longest_prefix("[A]xyyy"), Some((11, 4)));
        assert_eq!(pieces.longest_prefix("[A]"), Some((10, 3)));
        assert_eq!(pieces.longest_prefix("[A]xyz"), Some((12, 6)));
        assert_eq!(pieces.longest_prefix("étude"), Some((13, 2)));
        for text in ["", "[", "[B]", "è", "xb"] {
            assert_eq!(pieces.longest_prefix(text), None, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn a_prefix_is_found_if_and_only_if_there_is_one(
            pieces in prop::collection::btree_set("[abé]{1,4}", 0..12),
            text in "[abé]{0,8}",
        ) {
            let found = UserPieces::new(pieces.iter().map(|p| p.as_str().into()).zip(0..).collect())
                .longest_prefix(&text);
            let prefixes = pieces.iter().filter(|piece| text.starts_with(*piece));
            let expected = prefixes.max_by_key(|piece| piece.len()).map(String::len);
            prop_assert_eq!(found.map(|(_, len)| len), expected);
        }
    }
}

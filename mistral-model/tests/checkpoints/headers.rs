//! The header of a safetensors file.

use mistral_model::weights::ArchiveError;
use mistral_model::{ModelError, Transformer, WeightsError};
use proptest::prelude::*;
use serde_json::json;

use super::{File, UP};

/// The archive's own complaint about `v01`, bent by `bend`.
fn archive_error(bend: impl FnOnce(&mut File)) -> ArchiveError {
    let mut file = File::golden("v01");
    bend(&mut file);
    match file.open() {
        Err(ModelError::Weights { source: WeightsError::Archive { source, .. } }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let file = File::golden("v01");
    let (config, bytes) = (file.config.to_string(), file.bytes());
    for end in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = Transformer::from_bytes(&config, &bytes[..end]).unwrap_err();
        assert!(
            matches!(error, ModelError::Weights { source: WeightsError::Archive { .. } }),
            "{end}: {error:?}"
        );
    }
}

#[test]
fn headers_that_lie_about_offsets_name_the_tensor() {
    let outside = archive_error(|file| {
        let end = file.data.len() + 4;
        file.entry(UP)["data_offsets"][1] = json!(end);
    });
    assert!(matches!(&outside, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let reversed = archive_error(|file| file.entry(UP)["data_offsets"] = json!([8, 4]));
    assert!(matches!(&reversed, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let beyond = archive_error(|file| file.entry(UP)["data_offsets"] = json!([u64::MAX, u64::MAX]));
    assert!(matches!(&beyond, ArchiveError::OutsideFile { tensor, .. } if tensor == UP));
    let trailing = archive_error(|file| file.data.extend([0; 3]));
    assert!(matches!(trailing, ArchiveError::TrailingBytes { .. }), "{trailing}");
}

#[test]
fn overlaps_and_gaps_are_refused() {
    let overlap = archive_error(|file| {
        // Of the same size and shape: only the place is wrong.
        let other = file.entry("model.layers.0.mlp.up_proj.weight")["data_offsets"].clone();
        file.entry(UP)["data_offsets"] = other;
    });
    assert!(matches!(overlap, ArchiveError::NotConsecutive { .. }), "{overlap}");
    let gap = archive_error(|file| {
        file.header.remove(UP);
    });
    assert!(matches!(gap, ArchiveError::NotConsecutive { .. }), "{gap}");
}

#[test]
fn sizes_must_be_those_of_shape_and_type() {
    let shape = archive_error(|file| file.entry(UP)["shape"] = json!([128, 63]));
    let text = shape.to_string();
    assert!(text.contains(UP) && text.contains("[128, 63]"), "{text}");
    let overflow = archive_error(|file| file.entry(UP)["shape"] = json!([u64::MAX, 2]));
    assert!(matches!(overflow, ArchiveError::SizeMismatch { .. }), "{overflow}");
    let unknown = archive_error(|file| file.entry(UP)["dtype"] = json!("F33"));
    assert!(unknown.to_string().contains("unknown type \"F33\""), "{unknown}");
    let narrow = archive_error(|file| file.entry(UP)["dtype"] = json!("BF16"));
    assert!(matches!(narrow, ArchiveError::SizeMismatch { .. }), "{narrow}");
}

#[test]
fn all_wrong_entries_of_a_header_are_listed_at_once() {
    let several = archive_error(|file| {
        file.entry(UP)["dtype"] = json!("F33");
        file.entry("lm_head.weight")["data_offsets"] = json!([8, 4]);
    });
    let text = several.to_string();
    assert!(matches!(several, ArchiveError::Several { problems } if problems.len() == 2));
    assert!(text.contains("F33") && text.contains(UP) && text.contains("lm_head.weight"), "{text}");
}

#[test]
fn words_are_told_so_that_no_terminal_obeys_them_and_nobody_scrolls() {
    let word = format!("\u{1b}[2J\n{}", "x".repeat(50_000));
    let text = archive_error(|file| file.add(&word, &word, &[1], &[0; 4])).to_string();
    assert!(!text.contains(char::is_control) && text.contains("\\u{1b}[2J\\n"), "{text}");
    assert!(text.chars().count() < 400, "{text}");
}

#[test]
fn of_many_wrong_entries_the_first_are_told_and_the_others_counted() {
    let entry =
        |i| (format!("t{i:02}"), json!({"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}));
    let text = archive_error(|file| file.header.extend((0..100).map(entry))).to_string();
    assert!(text.contains("t31") && !text.contains("t32"), "{text}");
    assert!(text.ends_with("and 68 more"), "{text}");
}

#[test]
fn headers_that_are_none_are_refused() {
    let config = File::golden("v01").config.to_string();
    let open = |header: &[u8], length: u64| {
        let bytes = [&length.to_le_bytes(), header].concat();
        match Transformer::from_bytes(&config, &bytes).unwrap_err() {
            ModelError::Weights { source: WeightsError::Archive { source, .. } } => source,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(open(b"{}", u64::MAX), ArchiveError::HeaderTooLong { .. }));
    assert!(matches!(open(b"{}", 3), ArchiveError::Truncated { .. }));
    assert!(matches!(open(b"{\xff}", 3), ArchiveError::HeaderNotUtf8 { offset: 9 }));
    assert!(matches!(open(b"[]", 2), ArchiveError::HeaderNotJson { .. }));
    let deep = "{\"a\":".repeat(100_000);
    assert!(matches!(open(deep.as_bytes(), deep.len() as u64), ArchiveError::HeaderNotJson { .. }));
    let entry = r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let twice = format!("{{{entry},{entry}}}");
    let error = open(twice.as_bytes(), twice.len() as u64);
    assert!(matches!(error, ArchiveError::Duplicate { tensor } if tensor == "a"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_damage_to_the_header_makes_it_panic(at in 0usize..4000, byte: u8, cut in 0usize..4) {
        let file = File::golden("mqa");
        let mut bytes = file.bytes();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut * cut * cut);
        // Either way is fine: a byte of a weight is as good as another.
        if let Ok(model) = Transformer::from_bytes(&file.config.to_string(), &bytes) {
            prop_assert!(cut == 0 && model.config().dim == 64);
        }
    }
}

//! Sessions that go on in another process.

use std::fs;
use std::path::PathBuf;

use mistral_kvcache::SnapshotHeader;
use mistral_model::{
    Config, DType, HeavyHitters, KvFormat, ModelError, RollingKvCache, RopeLayout, Session,
    SessionOptions, SnapshotError, Transformer, Window,
};
use tempfile::TempDir;

use crate::reference::Reference;
use crate::tiny::{bits, config, full, options, tokens, windowed};

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session.kv");
    (folder, path)
}

#[test]
fn a_restored_session_goes_on_with_the_same_bits() {
    for model in [windowed(), full()] {
        for format in KvFormat::ALL {
            let options = SessionOptions { sinks: 2, rewind_slack: 3, ..options(format) };
            let (_folder, path) = file();
            let mut session = Session::new(&model, options).unwrap();
            let before = bits(session.prefill(&tokens(40, 0)).unwrap());
            session.save_file(&path).unwrap();

            let larger = SessionOptions { max_chunk: 64, ..options };
            let mut restored = Session::restore_file(&model, larger, &path).unwrap();
            assert_eq!((restored.tokens(), restored.position()), (session.tokens(), 40));
            assert!(restored.logits().is_empty());
            assert_eq!(bits(restored.refresh_logits().unwrap()), before);
            for session in [&mut session, &mut restored] {
                session.rewind(2).unwrap();
            }
            let expected = bits(session.prefill(&tokens(30, 1)).unwrap());
            assert_eq!(bits(restored.prefill(&tokens(30, 1)).unwrap()), expected, "{format}");
        }
    }
}

#[test]
fn an_empty_session_can_be_saved_too() {
    let (model, (_folder, path)) = (windowed(), file());
    Session::new(&model, options(KvFormat::F16)).unwrap().save_file(&path).unwrap();
    let restored = Session::restore_file(&model, options(KvFormat::F16), &path).unwrap();
    assert_eq!((restored.position(), restored.logits()), (0, [].as_slice()));
}

#[test]
fn another_session_than_the_one_saved_is_refused_by_name() {
    let (model, (_folder, path)) = (windowed(), file());
    let saved = SessionOptions { sinks: 1, rewind_slack: 2, ..options(KvFormat::F16) };
    let mut session = Session::new(&model, saved).unwrap();
    session.prefill(&tokens(20, 0)).unwrap();
    session.save_file(&path).unwrap();

    let restore = |model: &Transformer, options| match Session::restore_file(model, options, &path)
        .unwrap_err()
    {
        ModelError::Snapshot { source } => source,
        other => panic!("{other:?}"),
    };
    let other = Transformer::random(model.config(), DType::BF16, 12).unwrap();
    assert!(matches!(restore(&other, saved), SnapshotError::OtherModel { .. }));
    let error = restore(&model, SessionOptions { kv_dtype: KvFormat::BF16, ..saved });
    assert!(matches!(error, SnapshotError::OtherFormat { .. }));
    let error = restore(&model, SessionOptions { sinks: 0, ..saved });
    assert!(matches!(error, SnapshotError::OtherConfig { field: "sinks", found: 1, .. }));
    let error = restore(&model, SessionOptions { rewind_slack: 0, ..saved });
    assert!(matches!(error, SnapshotError::OtherConfig { field: "rewind_slack", .. }));
    // The same weights under another window.
    let error = restore(&full(), saved);
    assert!(matches!(error, SnapshotError::OtherWindow { layer: 0, found: 5, expected: 0 }));
    let error = restore(&crate::tiny::model(Window::last(6).unwrap()), saved);
    assert!(matches!(error, SnapshotError::OtherWindow { .. }));

    let heavy_hitters = Some(HeavyHitters { recent: 4, heavy: 4 });
    let kept = SessionOptions { heavy_hitters, ..options(KvFormat::F16) };
    let what = |error: ModelError| matches!(error, ModelError::HeavyHitters { what: "a snapshot" });
    assert!(what(Session::restore_file(&model, kept, &path).unwrap_err()));
    assert!(what(Session::new(&model, kept).unwrap().save_file(&path).unwrap_err()));
    // None of this has touched the file.
    Session::restore_file(&model, saved, &path).unwrap();
}

#[test]
fn damaged_files_are_refused() {
    let (model, (_folder, path)) = (windowed(), file());
    let options = options(KvFormat::F16);
    let restore = || Session::restore_file(&model, options, &path).unwrap_err();
    assert!(matches!(
        restore(),
        ModelError::Snapshot { source: SnapshotError::File { path: named, .. } } if named == path
    ));
    let mut session = Session::new(&model, options).unwrap();
    session.prefill(&tokens(20, 0)).unwrap();
    session.save_file(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(211).chain(whole.len() - 9..whole.len()) {
        let mut bent = whole.clone();
        bent[at] ^= 1;
        fs::write(&path, bent).unwrap();
        assert!(matches!(restore(), ModelError::Snapshot { .. }), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(matches!(restore(), ModelError::Snapshot { .. }), "cut at {at}");
    }
}

#[test]
fn what_no_session_saved_is_no_session() {
    let (model, (_folder, path)) = (windowed(), file());
    let options = options(KvFormat::F32);
    // A cache of the right sizes and the right model, with other tokens.
    let sizes = model.config().cache().with_max_chunk(options.max_chunk);
    let mut cache = RollingKvCache::<f32>::new(sizes).unwrap();
    let id = cache.add_sequence().unwrap();
    let fingerprint = model.fingerprint().unwrap();
    cache.save_file(id, fingerprint, &[1, 2], &path).unwrap();
    assert_eq!(SnapshotHeader::open(&path).unwrap().fingerprint, fingerprint);
    let error = Session::restore_file(&model, options, &path).unwrap_err();
    assert!(matches!(error, ModelError::SnapshotTokens { found: 2, position: 0 }), "{error:?}");
}

#[test]
fn a_fingerprint_is_that_of_the_numbers() {
    let of = |model: Transformer| model.fingerprint().unwrap();
    let base = of(windowed());
    assert_eq!(base, of(windowed()));
    assert_eq!(base, of(full())); // a snapshot names windows by itself
    let random =
        |config: &Config, format, seed| of(Transformer::random(config, format, seed).unwrap());
    let sizes = windowed().config().clone();
    let others = [
        random(&sizes, DType::BF16, 12),
        random(&sizes, DType::F16, 11),
        random(&Config { rope_theta: 1e6, ..sizes.clone() }, DType::BF16, 11),
        random(&Config { norm_eps: 1e-6, ..sizes.clone() }, DType::BF16, 11),
        random(&Config { rope_layout: RopeLayout::Interleaved, ..sizes.clone() }, DType::BF16, 11),
        random(&Config { tied_embeddings: true, ..sizes }, DType::BF16, 11),
    ];
    assert!(others.iter().all(|other| *other != base));
}

#[test]
fn a_change_of_any_matrix_or_norm_changes_the_fingerprint() {
    let sizes = config(Window::Full);
    let json = sizes.to_hf_json();
    let base = Reference::random(&sizes, 3);
    let of = |reference: &Reference| reference.transformer(&json).fingerprint().unwrap();
    for name in base.names() {
        let mut changed = Reference::random(&sizes, 3);
        changed.scale(&name, 1.01);
        assert_ne!(of(&changed), of(&base), "{name}");
    }
}

//! Tensors and files that do not fit the configuration, or are no numbers.

use std::fs;

use mistral_model::weights::TensorProblem;
use mistral_model::{
    Batch, Checkpoint, LogitsOf, ModelError, Session, SessionOptions, Turn, WeightsError,
};
use serde_json::{Value, json};

use super::{File, UP, golden};

/// All differences between `v01`, bent by `bend`, and its configuration.
fn problems(bend: impl FnOnce(&mut File)) -> Vec<TensorProblem> {
    let mut file = File::golden("v01");
    bend(&mut file);
    match file.open() {
        Err(ModelError::Weights { source: WeightsError::Tensors { problems } }) => problems,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let found = problems(|file| {
        let norm = file.header.remove("model.norm.weight").unwrap();
        file.header.insert("model.nrom.weight".to_owned(), norm);
        file.entry(UP)["shape"] = json!([64, 128]);
        file.entry("lm_head.weight")["dtype"] = json!("I32");
    });
    let has = |wanted: &dyn Fn(&TensorProblem) -> bool| found.iter().any(wanted);
    assert!(has(
        &|p| matches!(p, TensorProblem::Missing { tensor } if tensor == "model.norm.weight")
    ));
    assert!(has(
        &|p| matches!(p, TensorProblem::Unexpected { tensor, .. } if tensor == "model.nrom.weight")
    ));
    assert!(has(&|p| matches!(p, TensorProblem::Shape { tensor, expected, .. }
        if tensor == UP && expected == &[128, 64])));
    assert!(has(
        &|p| matches!(p, TensorProblem::Type { tensor, .. } if tensor == "lm_head.weight")
    ));
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_configuration_that_contradicts_the_weights_lists_every_tensor() {
    let found = problems(|file| file.config["intermediate_size"] = json!(96));
    assert_eq!(found.len(), 3 * 3, "three matrices in each of three layers: {found:?}");
    let found = problems(|file| file.config["num_hidden_layers"] = json!(2));
    assert_eq!(found.len(), 9, "{found:?}");
    assert!(found.iter().all(|problem| matches!(problem, TensorProblem::Unexpected { .. })));
    let found = problems(|file| file.config["num_hidden_layers"] = json!(4));
    assert_eq!(found.len(), 9, "{found:?}");
    assert!(found.iter().all(|problem| matches!(problem, TensorProblem::Missing { .. })));
}

#[test]
fn a_folder_without_a_model_says_what_it_should_hold() {
    let folder = tempfile::tempdir().unwrap();
    let empty = Checkpoint::open(folder.path()).unwrap_err();
    assert!(empty.to_string().contains("expected config.json"), "{empty}");
    let none = Checkpoint::open(folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(none, WeightsError::Io { .. }), "{none:?}");
}

#[test]
fn an_index_may_only_name_files_beside_it_that_hold_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(golden("sharded")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("model.safetensors.index.json");
    let index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let open_with = |tensor: &str, file: &str| {
        let mut bent = index.clone();
        bent["weight_map"][tensor] = json!(file);
        fs::write(&path, bent.to_string()).unwrap();
        Checkpoint::open(folder.path())
    };
    for elsewhere in ["../model.safetensors", "/etc/passwd", "a/b", "..", "", "\u{1b}[2J"] {
        let error = open_with("lm_head.weight", elsewhere).unwrap_err();
        assert!(matches!(&error, WeightsError::IndexEscapes { file, .. } if file == elsewhere));
    }
    let gone = open_with("lm_head.weight", "model-00009-of-00003.safetensors").unwrap_err();
    assert!(matches!(gone, WeightsError::Io { .. }), "{gone:?}");
    let wrong = open_with("model.embed_tokens.weight", "model-00003-of-00003.safetensors");
    assert!(wrong.unwrap_err().to_string().contains("where the index puts it"));
    fs::write(&path, "{").unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::Index { .. })));
    fs::write(&path, index.to_string()).unwrap();
    Checkpoint::open(folder.path()).unwrap();
}

#[test]
fn behind_attention_the_last_layer_computes_what_becomes_logits() {
    let mut file = File::golden("v01");
    let nan = f32::NAN.to_le_bytes();
    file.part("model.layers.2.mlp.up_proj.weight")[..4].copy_from_slice(&nan);
    let model = file.open().unwrap();
    // A weight that spoils every row shows which rows there are.
    let options = SessionOptions { max_chunk: 2, ..Default::default() };
    let mut session = Session::new(&model, options).unwrap();
    let error = session.prefill(&[1, 2, 3, 4]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 2, position: 3 }), "{error:?}");
    session.reset().unwrap();
    let mut batch = Batch::new(&model, 2).unwrap();
    for (logits, first) in
        [(LogitsOf::Nothing, None), (LogitsOf::Last, Some(3)), (LogitsOf::All, Some(2))]
    {
        let turn = Turn { session: &mut session, tokens: &[1, 2], logits };
        let outcome = batch.forward(&mut [turn]).unwrap().remove(0).map(drop);
        match (outcome, first) {
            (Ok(()), None) => {}
            (Err(ModelError::NotFinite { layer: 2, position }), Some(first)) => {
                assert_eq!(position, first, "{logits:?}");
            }
            (outcome, _) => panic!("{logits:?}: {outcome:?}"),
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_found_where_they_first_show() {
    let mut file = File::golden("v01");
    let nan = f32::NAN.to_le_bytes();
    file.part(UP)[..4].copy_from_slice(&nan);
    let model = file.open().unwrap();
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    let error = session.prefill(&[1, 2, 3]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 1, position: 0 }), "{error:?}");
    // The chunk was taken back exactly.
    assert_eq!(session.position(), 0);
    assert!(matches!(session.prefill(&[1]), Err(ModelError::NotFinite { .. })));

    let mut file = File::golden("v01");
    file.part("lm_head.weight")[..4].copy_from_slice(&nan);
    let model = file.open().unwrap();
    let options = SessionOptions { max_chunk: 20, ..Default::default() };
    let mut session = Session::new(&model, options).unwrap();
    let error = session.prefill(&[1, 2, 3]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 3, position: 2 }), "{error:?}");
    assert_eq!((session.position(), session.logits()), (0, [].as_slice()));
    // The first chunk needs no logits. The second pushes out what would be needed to go back to it.
    let error = session.prefill(&[1; 40]).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { layer: 3, position: 39 }), "{error:?}");
    assert!(matches!(session.prefill(&[1]), Err(ModelError::Interrupted)));
    assert!(matches!(session.rewind(1), Err(ModelError::Interrupted)));
    session.reset().unwrap();
    assert_eq!((session.position(), session.tokens()), (0, [].as_slice()));
}

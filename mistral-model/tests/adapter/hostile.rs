//! Adapters that are damaged, or ask for what is not done: everything is listed, nothing panics.

use std::fs;

use mistral_model::ndarray::Array2;
use mistral_model::weights::{AdapterProblem, ArchiveError, TensorProblem, WeightsError};
use mistral_model::{Adapter, AdapterError, Checkpoint, Config};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::files::{Peft, golden, peft_name};

fn config() -> Config {
    Checkpoint::open(golden("models/v01")).unwrap().config().clone()
}

fn problems(peft: &Peft) -> Vec<AdapterProblem> {
    match peft.try_open(&config()).unwrap_err() {
        AdapterError::Invalid { problems, .. } => problems,
        other => panic!("{other}"),
    }
}

fn lines(peft: &Peft) -> Vec<String> {
    problems(peft).iter().map(ToString::to_string).collect()
}

#[test]
fn everything_that_is_wrong_is_listed_at_once() {
    let mut peft = Peft::golden()
        .with("use_dora", json!(true))
        .with("modules_to_save", json!(["lm_head", "embed_tokens"]))
        .with("exclude_modules", json!(["2.self_attn.v_proj"]));
    let tensors = &mut peft.tensors.0;
    let name = |layer, module, matrix| format!("{}.{matrix}.weight", peft_name(layer, module));
    tensors.remove(&name(0, 0, "lora_A")).unwrap();
    tensors.insert(name(0, 2, "lora_B"), Array2::zeros((16, 3)));
    tensors.get_mut(&name(1, 0, "lora_A")).unwrap()[[2, 5]] = f32::NAN;
    tensors.get_mut(&name(1, 2, "lora_B")).unwrap()[[0, 3]] = f32::INFINITY;
    tensors.insert("base_model.model.lm_head.weight".to_owned(), Array2::zeros((2, 3)));
    let found = lines(&peft);
    for want in [
        "use_dora is true, which is not supported",
        "modules_to_save is [\"lm_head\",\"embed_tokens\"], which is not supported",
        "layers.0.self_attn.q_proj.lora_A.weight is missing",
        "layers.0.self_attn.v_proj.lora_B.weight at byte",
        "shape [16, 3], expected [16, 4]",
        "layers.1.self_attn.q_proj.lora_A.weight has NaN or infinity at [2, 5]",
        "layers.1.self_attn.v_proj.lora_B.weight has NaN or infinity at [0, 3]",
        "layers.2.self_attn.v_proj.lora_A.weight is there, and target_modules does not name",
        "layers.2.self_attn.v_proj.lora_B.weight is there, and target_modules does not name",
        "base_model.model.lm_head.weight in adapter_model.safetensors belongs to no part",
    ] {
        assert!(found.iter().any(|line| line.contains(want)), "{want} not in {found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[test]
fn settings_that_are_not_followed_are_refused_by_name() {
    for (field, value) in [
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("modules_to_save", json!(["embed_tokens"])),
        ("trainable_token_indices", json!([5])),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("target_parameters", json!(["mlp.weight"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("layers_pattern", json!(["blocks"])),
        ("a_setting_to_come", json!(1)),
    ] {
        let found = problems(&Peft::golden().with(field, value.clone()));
        let shown = value.to_string();
        assert!(
            matches!(&found[..], [AdapterProblem::Unsupported { field: named, found }]
                if named == field && *found == shown),
            "{field}: {found:?}"
        );
    }
    let long = Peft::golden().with("modules_to_save", json!(vec!["größe"; 100]));
    let [AdapterProblem::Unsupported { found, .. }] = &problems(&long)[..] else { panic!() };
    assert_eq!(found.chars().count(), 60);
    for (targets, name) in [
        (json!(["q_proj", "v_proj", "embed_tokens"]), "model.embed_tokens"),
        (json!(r".*(q_proj|v_proj|embed_tokens)"), "model.embed_tokens"),
    ] {
        let found = problems(&Peft::golden().with("target_modules", targets));
        let target = AdapterProblem::Unsupported {
            field: "target_modules".to_owned(),
            found: name.to_owned(),
        };
        assert_eq!(found, [target]);
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    for (field, value, want) in [
        ("peft_type", json!("IA3"), "peft_type is IA3, expected LORA"),
        ("peft_type", Value::Null, "peft_type is missing, expected LORA"),
        ("r", json!(0), "r is 0, expected at least 1"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern is 0, expected at least 1"),
        ("lora_alpha", json!(1e300), "lora_alpha is 1"),
        ("alpha_pattern", json!({"q_proj": -1e300}), "alpha_pattern is -1"),
        ("alpha_pattern", json!({"(": 1}), "\"(\" in alpha_pattern cannot be matched with: "),
        ("target_modules", json!("["), "\"[\" in target_modules cannot be matched with: "),
    ] {
        let found = lines(&Peft::golden().with(field, value));
        assert!(found.iter().any(|line| line.starts_with(want)), "{want} not in {found:#?}");
    }
    for (field, value) in [("r", json!(-4)), ("r", json!("4")), ("rank_pattern", json!([1]))] {
        let refused = Peft::golden().with(field, value).try_open(&config()).unwrap_err();
        assert!(matches!(refused, AdapterError::Json { .. }), "{refused}");
    }
    // A rank other than the file's, in the configuration or for one module.
    for (field, value) in [("r", json!(5)), ("rank_pattern", json!({"q_proj": 5}))] {
        let found = problems(&Peft::golden().with(field, value));
        let shape = |problem: &_| {
            matches!(problem, AdapterProblem::Tensor(TensorProblem::Shape { expected, .. })
                if expected.contains(&5))
        };
        assert!(found.iter().all(shape) && found.len() >= 6, "{found:?}");
    }
}

#[test]
fn mistrals_own_files_are_checked_as_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Adapter::open(folder.path(), &config()).unwrap_err();
    assert!(matches!(open(), AdapterError::NoAdapter { .. }));
    let mut tensors = Peft::golden().in_mistrals_names(&config());
    tensors.0.remove("layers.1.attention.wq.lora_B.weight").unwrap();
    tensors.0.insert("output.lora_A.weight".to_owned(), Array2::zeros((4, 64)));
    fs::write(folder.path().join("lora.safetensors"), tensors.bytes()).unwrap();
    let params = r#"{"lora": {"rank": 0, "scaling": -1}}"#;
    fs::write(folder.path().join("params.json"), params).unwrap();
    let AdapterError::Invalid { problems, .. } = open() else { panic!() };
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for want in [
        "lora.rank is 0, expected at least 1",
        "lora.scaling is -1, expected a finite number above 0",
        "layers.1.attention.wq.lora_B.weight is missing",
        "output.lora_A.weight in ",
    ] {
        assert!(found.iter().any(|line| line.starts_with(want)), "{want} not in {found:#?}");
    }
    fs::write(folder.path().join("params.json"), "{").unwrap();
    assert!(matches!(open(), AdapterError::Json { .. }));
    // A rank that the file does not have.
    fs::write(folder.path().join("params.json"), r#"{"lora": {"rank": 9}}"#).unwrap();
    let AdapterError::Invalid { problems, .. } = open() else { panic!() };
    let shapes = problems
        .iter()
        .filter(|problem| matches!(problem, AdapterProblem::Tensor(TensorProblem::Shape { .. })));
    assert_eq!(shapes.count(), 10);
}

#[test]
fn an_empty_or_truncated_file_is_refused() {
    let mut empty = Peft::golden().with("target_modules", json!([]));
    empty.tensors.0.clear();
    assert!(matches!(
        &problems(&empty)[..],
        [AdapterProblem::Tensor(TensorProblem::Missing { .. })]
    ));
    let peft = Peft::golden();
    let (settings, bytes) = (peft.settings.to_string(), peft.tensors.bytes());
    for len in (0..bytes.len()).step_by(7) {
        let refused = Adapter::from_bytes(&settings, &bytes[..len], &config()).unwrap_err();
        let AdapterError::Files { source: WeightsError::Archive { source, .. } } = refused else {
            panic!("{len} bytes: {refused}");
        };
        let short = matches!(
            source,
            ArchiveError::Truncated { .. }
                | ArchiveError::OutsideFile { .. }
                | ArchiveError::Several { .. }
        );
        assert!(short, "{len} bytes: {source}");
    }
}

#[test]
fn weights_of_other_types_are_refused() {
    let peft = Peft::golden();
    let bytes = peft.tensors.bytes();
    let header_len = u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header_len].to_vec()).unwrap();
    // As many bytes of integers.
    let bent = text.replace("\"F32\"", "\"I32\"");
    let bent = [&bytes[..8], bent.as_bytes(), &bytes[8 + header_len..]].concat();
    let refused = Adapter::from_bytes(&peft.settings.to_string(), &bent, &config()).unwrap_err();
    let AdapterError::Invalid { problems, .. } = refused else { panic!("{refused}") };
    assert_eq!(problems.len(), 12);
    let integer = |problem: &_| {
        matches!(problem, AdapterProblem::Tensor(TensorProblem::Type { found, .. })
            if found.to_string() == "i32")
    };
    assert!(problems.iter().all(integer), "{problems:?}");
}

#[test]
fn an_adapter_for_a_model_that_cannot_be_is_refused() {
    let config = Config { head_dim: 0, ..config() };
    let refused = Peft::golden().try_open(&config).unwrap_err();
    assert!(matches!(refused, AdapterError::Config { .. }), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn bent_bytes_never_panic(changes in prop::collection::vec((0usize..11_504, any::<u8>()), 1..8)) {
        let peft = Peft::golden();
        let mut bytes = peft.tensors.bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = Adapter::from_bytes(&peft.settings.to_string(), &bytes, &config());
    }

    #[test]
    fn bent_settings_never_panic(
        field in prop::sample::select(vec![
            "r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern",
            "layers_to_transform", "layers_pattern", "use_rslora", "init_lora_weights", "peft_type",
        ]),
        value in prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            prop::collection::vec(".{0,9}", 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,9}", any::<u8>(), 0..4)
                .prop_map(|map| json!(map)),
        ],
    ) {
        let _ = Peft::golden().with(field, value).try_open(&config());
    }
}

//! Adapters of the output matrix, `lm_head`: at run time, merged, in company, and as peft saves them.

use std::sync::Arc;

use mistral_model::ndarray::Array2;
use mistral_model::weights::AdapterProblem;
use mistral_model::{
    Adapter, AdapterError, Batch, Checkpoint, Config, DType, Session, SessionOptions, Transformer,
};
use serde_json::json;

use super::files::{Peft, bits, golden, logits, worst};
use super::golden::{cases, merged_by_hand};

const HEAD: &str = "base_model.model.lm_head";

/// An adapter of `q_proj` and of the output matrix.
fn peft(config: &Config) -> Peft {
    let mut peft = Peft::random(config, &[0], 3, 5);
    let matrix = |rows: usize, cols: usize| {
        Array2::from_shape_fn((rows, cols), |(r, c)| ((r * 31 + c * 17) % 23) as f32 / 23.0 - 0.5)
    };
    peft.tensors.0.insert(format!("{HEAD}.lora_A.weight"), matrix(3, config.dim));
    peft.tensors.0.insert(format!("{HEAD}.lora_B.weight"), matrix(config.vocab_size, 3));
    peft.with("target_modules", json!(["q_proj", "lm_head"]))
}

#[test]
fn the_output_matrix_adds_what_merged_weights_say() {
    let (_, tolerance, cases) = cases();
    let model = Transformer::open(golden("models/v01")).unwrap();
    let peft = peft(model.config());
    let adapter = peft.open(model.config());
    assert_eq!(adapter.projections(), model.config().n_layers + 1);
    let ids = &cases[4].ids;
    let want = logits(&merged_by_hand(&peft, 2.0), &[], ids, 9);
    for chunk in [1, 9, ids.len()] {
        let off = worst(&logits(&model, &[&adapter], ids, chunk), &want);
        assert!(off <= tolerance, "chunks of {chunk}: off by {off}");
    }
    let merged = Checkpoint::open(golden("models/v01")).unwrap();
    let merged = merged.with_adapter(Arc::clone(&adapter)).unwrap().load().unwrap();
    assert!(worst(&logits(&merged, &[], ids, 9), &want) <= tolerance);
    // All of it is scaled, and none of it left.
    let muted = Arc::new(Adapter::clone(&adapter).scaled(0.0).unwrap());
    assert_eq!(muted.projections(), 0);
    let plain = bits(&logits(&model, &[], ids, 9));
    assert!(bits(&logits(&model, &[&muted], ids, 9)) == plain);
}

#[test]
fn each_session_of_a_batch_has_its_own_output_matrix() {
    let model = Transformer::open(golden("models/v01")).unwrap();
    let [first, second] = [1.0, -0.5].map(|strength| {
        let adapter = peft(model.config()).try_open(model.config()).unwrap();
        Arc::new(adapter.scaled(strength).unwrap())
    });
    let start = |adapters: &[&Arc<Adapter>]| {
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        for adapter in adapters {
            session = session.with_adapter(Arc::clone(adapter)).unwrap();
        }
        session
    };
    let companies = [vec![], vec![&first], vec![&first], vec![], vec![&first, &second]];
    let mut alone: Vec<_> = companies.iter().map(|adapters| start(adapters)).collect();
    let mut together: Vec<_> = companies.iter().map(|adapters| start(adapters)).collect();
    let mut batch = Batch::new(&model, companies.len()).unwrap();
    for tokens in [[1, 1, 1, 1, 1], [5, 6, 5, 6, 5]] {
        let mut sessions: Vec<_> = together.iter_mut().collect();
        batch.decode(&mut sessions, &tokens).unwrap();
        for (i, (alone, together)) in alone.iter_mut().zip(&together).enumerate() {
            assert!(alone.decode(tokens[i]).unwrap() == together.logits(), "session {i}");
        }
    }
    assert!(together[0].logits() != together[2].logits());
}

#[test]
fn the_models_own_matrix_that_peft_saves_beside_it_changes_nothing() {
    let config = Config::mistral_7b_v01();
    let config = Config { dim: 64, n_layers: 1, n_heads: 4, n_kv_heads: 2, head_dim: 16, ..config };
    let config = Config { hidden_dim: 96, vocab_size: 50, ..config };
    let model = Transformer::random(&config, DType::F32, 3).unwrap();
    let mut peft = peft(&config);
    let pair = bits(&logits(&model, &[&peft.open(&config)], &[1, 2, 3], 2));
    let base = |rows| (format!("{HEAD}.base_layer.weight"), Array2::ones((rows, 64)));
    peft.tensors.0.extend([base(50)]);
    assert!(bits(&logits(&model, &[&peft.open(&config)], &[1, 2, 3], 2)) == pair);
    // Of a vocabulary that grew with the adapter.
    peft.tensors.0.extend([base(51)]);
    let Err(AdapterError::Invalid { problems, .. }) = peft.try_open(&config) else {
        panic!("a matrix of another model was taken")
    };
    let [AdapterProblem::Tensor(problem)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.to_string().contains("shape [51, 64], expected [50, 64]"), "{problem}");
}

#[test]
fn an_output_matrix_that_is_the_embedding_is_adapted_at_run_time_alone() {
    let model = Transformer::open(golden("models/tied")).unwrap();
    let adapter = peft(model.config()).open(model.config());
    let plain = logits(&model, &[], &[1, 2, 3], 2);
    assert!(worst(&logits(&model, &[&adapter], &[1, 2, 3], 2), &plain) > 0.1);
    let checkpoint = Checkpoint::open(golden("models/tied")).unwrap();
    let refused = checkpoint.with_adapter(adapter).map(drop).unwrap_err();
    assert!(matches!(refused, AdapterError::TiedOutput), "{refused}");
}

#[test]
fn all_linear_layers_are_without_the_output_matrix_as_in_peft() {
    let model = Transformer::open(golden("models/v01")).unwrap();
    let peft = peft(model.config()).with("target_modules", json!("all-linear"));
    let Err(AdapterError::Invalid { problems, .. }) = peft.try_open(model.config()) else {
        panic!("the output matrix was taken for a layer")
    };
    let not_meant = |problem: &&AdapterProblem| matches!(problem, AdapterProblem::NotTargeted { tensor } if tensor.starts_with(HEAD));
    assert_eq!(problems.iter().filter(not_meant).count(), 2, "{problems:?}");
}

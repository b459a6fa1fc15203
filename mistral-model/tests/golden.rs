//! Tiny checkpoints against Hugging Face's logits, in every format and for every chunk size.
#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mistral_core::Element;
use mistral_model::ndarray::Array2;
use mistral_model::score::{Perplexity, Reading, Scorer, TokenPair};
use mistral_model::{
    Checkpoint, KvFormat, ModelError, OpenOptions, RollingKvCache, Sampler, Scratch, Session,
    SessionOptions, Transformer, WeightFormat, WeightFormats,
};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    entries: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    arrays: String,
    window: Option<usize>,
    tolerance: f32,
    cases: Vec<Case>,
    greedy: Vec<Greedy>,
    mask_sensitivity: BTreeMap<String, f32>,
}

#[derive(Deserialize)]
struct Case {
    input_ids: String,
    logits: String,
}

#[derive(Deserialize)]
struct Greedy {
    new_tokens: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn manifest() -> Manifest {
    serde_json::from_str(&fs::read_to_string(folder().join("manifest.json")).unwrap()).unwrap()
}

/// The arrays of one safetensors file, by name.
struct Arrays(Vec<u8>);

impl Arrays {
    fn open(path: &str) -> Self {
        Self(fs::read(folder().join(path)).unwrap())
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let (chunks, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        chunks.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values = tensor.data().chunks(4).map(<f32 as Element>::from_le_bytes).collect();
        Array2::from_shape_vec((tensor.shape()[0], tensor.shape()[1]), values).unwrap()
    }
}

fn options(max_chunk: usize) -> SessionOptions {
    SessionOptions { kv_dtype: KvFormat::F32, max_chunk, ..Default::default() }
}

/// Logits of every position, the tokens taken in chunks.
fn logits(model: &Transformer, ids: &[u32], max_chunk: usize) -> Array2<f32> {
    let mut session = Session::new(model, options(max_chunk)).unwrap();
    let mut all = Array2::zeros((ids.len(), model.config().vocab_size));
    session
        .logits_of_all(ids, |first, chunk| {
            for (i, row) in chunk.outer_iter().enumerate() {
                all.row_mut(first + i).assign(&row);
            }
            Ok::<(), ModelError>(())
        })
        .unwrap();
    all
}

/// The largest difference, and where.
fn worst(found: &Array2<f32>, want: &Array2<f32>) -> (f32, (usize, usize)) {
    assert_eq!(found.dim(), want.dim());
    found.indexed_iter().fold((0.0, (0, 0)), |worst, (at, x)| {
        let difference = (x - want[at]).abs();
        if difference <= worst.0 { worst } else { (difference, at) }
    })
}

/// Checks all cases of one model for all chunk sizes.
fn check(name: &str, folder_name: &str) {
    let manifest = manifest();
    let entry = &manifest.entries[name];
    let arrays = Arrays::open(&entry.arrays);
    let model = Transformer::open(folder().join("models").join(folder_name)).unwrap();
    let w = entry.window.unwrap_or(7);
    for case in &entry.cases {
        let (ids, want) = (arrays.ids(&case.input_ids), arrays.matrix(&case.logits));
        let whole = logits(&model, &ids, ids.len());
        let (difference, at) = worst(&whole, &want);
        assert!(
            difference <= entry.tolerance,
            "{folder_name} {}: {} and not {} at {at:?}, tolerance {}",
            case.logits,
            whole[at],
            want[at],
            entry.tolerance
        );
        for chunk in [1, 3, w - 1, w, w + 1, 3 * w] {
            let chunked = logits(&model, &ids, chunk);
            assert!(
                chunked.iter().map(|x| x.to_bits()).eq(whole.iter().map(|x| x.to_bits())),
                "{folder_name} {}: chunks of {chunk} give other bits",
                case.logits
            );
        }
    }
    for (i, greedy) in entry.greedy.iter().enumerate() {
        let prompt = arrays.ids(&format!("greedy{i}.input_ids"));
        let want = arrays.ids(&format!("greedy{i}.output_ids"));
        let mut session = Session::new(&model, options(5)).unwrap();
        let generator = session.generate(&prompt, Sampler::greedy()).unwrap().ignore_eos();
        let found: Result<Vec<u32>, _> = generator.take(greedy.new_tokens).collect();
        assert_eq!(found.unwrap(), want, "{folder_name} greedy{i}");
    }
    assert_eq!(entry.path, format!("models/{name}"));
}

/// `ln softmax(logits)[token]` of another engine's logits, in f64.
fn log_probability(logits: &Array2<f32>, row: usize, token: u32) -> f64 {
    let row = logits.row(row).mapv(f64::from);
    row[token as usize] - row.mapv(f64::exp).sum().ln()
}

#[test]
fn likelihoods_are_those_of_transformers_logits() {
    let manifest = manifest();
    for name in ["v01", "v03", "tied"] {
        let entry = &manifest.entries[name];
        let arrays = Arrays::open(&entry.arrays);
        let model = Transformer::open(folder().join("models").join(name)).unwrap();
        let session = || Session::new(&model, options(7)).unwrap();
        for case in &entry.cases {
            let (ids, logits) = (arrays.ids(&case.input_ids), arrays.matrix(&case.logits));
            if ids.len() < 2 {
                continue; // nothing comes after its token
            }
            let want: Vec<f64> =
                (1..ids.len()).map(|i| log_probability(&logits, i - 1, ids[i])).collect();
            // A logit may be off by the tolerance, and so may the logarithm of the sum.
            let tolerance = 2.0 * f64::from(entry.tolerance);
            let pairs: Vec<TokenPair> = (1..ids.len())
                .map(|cut| ids.split_at(cut))
                .map(|(a, b)| TokenPair { context: a.to_vec(), continuation: b.to_vec() })
                .collect();
            let found = Scorer::new(session()).unwrap().log_likelihoods(&pairs).unwrap();
            for (cut, found) in found.iter().enumerate() {
                for (found, want) in found.per_token.iter().zip(&want[cut..]) {
                    assert!((found - want).abs() <= tolerance, "{name} {}", case.logits);
                }
            }
            let mut perplexity = Perplexity::new(session(), Reading::Stream).unwrap();
            perplexity.push(&ids).unwrap();
            let score = perplexity.finish().unwrap();
            let mean = -want.iter().sum::<f64>() / want.len() as f64;
            assert!((score.perplexity().ln() - mean).abs() <= tolerance, "{name} {}", case.logits);
        }
        for i in 0..entry.greedy.len() {
            let ids = |what| arrays.ids(&format!("greedy{i}.{what}_ids"));
            let request = TokenPair { context: ids("input"), continuation: ids("output") };
            let found = Scorer::new(session()).unwrap().log_likelihoods(&[request]).unwrap();
            assert!(found[0].greedy, "{name} greedy{i}");
        }
    }
}

macro_rules! golden {
    ($($test:ident: $name:literal in $folder:literal;)*) => {$(
        #[test]
        fn $test() {
            check($name, $folder);
        }
    )*};
}

golden! {
    v01_equals_transformers: "v01" in "v01";
    mistrals_own_format_equals_transformers: "v01" in "v01-native";
    v03_without_a_window_equals_transformers: "v03" in "v03";
    multi_head_equals_transformers: "mha" in "mha";
    multi_query_equals_transformers: "mqa" in "mqa";
    an_explicit_head_dim_equals_transformers: "headdim" in "headdim";
    tied_embeddings_equal_transformers: "tied" in "tied";
    bf16_weights_equal_transformers: "bf16" in "bf16";
    f16_weights_equal_transformers: "f16" in "f16";
    shards_equal_transformers: "sharded" in "sharded";
}

#[test]
fn a_window_off_by_one_would_be_seen() {
    // The evidence in the data itself: a wrong window moves logits by thousands of tolerances.
    for (name, entry) in manifest().entries {
        assert_eq!(entry.window.is_some(), !entry.mask_sensitivity.is_empty(), "{name}");
        for (mask, moved) in entry.mask_sensitivity {
            assert!(moved > 1000.0 * entry.tolerance, "{name} {mask}");
        }
    }
}

#[test]
fn every_layer_gives_the_hidden_states_of_transformers() {
    let want = Arrays::open("models/v01/hidden.safetensors");
    let ids = want.ids("input_ids");
    let model = Transformer::open(folder().join("models/v01")).unwrap();
    let config = model.config();
    let mut cache = RollingKvCache::<f32>::new(config.cache().with_max_chunk(ids.len())).unwrap();
    let sequence = cache.add_sequence().unwrap();
    let mut scratch = Scratch::new(config, ids.len()).unwrap();
    let mut hidden = Array2::zeros((ids.len(), config.dim));
    model.embed(&ids, hidden.view_mut()).unwrap();
    assert_eq!(hidden, want.matrix("embed_tokens"));
    for layer in 0..config.n_layers {
        let range = layer..layer + 1;
        model.forward_layers(range, hidden.view_mut(), &mut cache, sequence, &mut scratch).unwrap();
        let (difference, at) = worst(&hidden, &want.matrix(&format!("layers.{layer}")));
        assert!(difference < 1e-4, "layer {layer}: off by {difference} at {at:?}");
    }
    let mut logits = Array2::zeros((ids.len(), config.vocab_size));
    model.logits(hidden.view(), logits.view_mut(), &mut scratch).unwrap();
    assert!(worst(&logits, &want.matrix("logits")).0 < 5e-4);
}

/// The root mean square difference from golden logits whose projections were quantised by ggml's
/// rules, with ours quantised while loading, and that of the weights' own rounding.
fn quantised(projections: WeightFormat, name: &str) -> (f32, f32) {
    let entry = &manifest().entries["v01"];
    let arrays = Arrays::open(&entry.arrays);
    let case = entry.cases.last().unwrap();
    let formats = WeightFormats { projections, ..WeightFormats::uniform(WeightFormat::F32) };
    let options = OpenOptions::new().weights(formats);
    let checkpoint = Checkpoint::open_with(folder().join("models/v01"), options).unwrap();
    let found = logits(&checkpoint.load().unwrap(), &arrays.ids(&case.input_ids), 5);
    let (want, dense) = (arrays.matrix(name), arrays.matrix(&case.logits));
    let rms = |x: &Array2<f32>| (x - &want).mapv(|d| d * d).mean().unwrap().sqrt();
    (rms(&found), rms(&dense))
}

#[test]
fn rounding_inputs_to_16_bits_is_a_hundredth_of_what_8_bit_weights_cost() {
    let (inputs, weights) = quantised(WeightFormat::Q8_0, "quantized.Q8_0.logits");
    assert!(inputs <= 0.01 * weights, "{inputs} and {weights}");
    assert!(inputs <= 1e-3, "{inputs}");
}

#[test]
fn rounding_inputs_to_8_bits_costs_little_beside_4_bit_weights() {
    let (inputs, weights) = quantised(WeightFormat::Q4_0, "quantized.Q4_0.logits");
    assert!(inputs <= 0.1 * weights, "{inputs} and {weights}");
}

//! ggml's bytes and what they mean.

use mistral_core::Element;
use mistral_core::quant::{Block, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{dequantised, quantised, restored, squared_error};

struct Case {
    name: String,
    format: String,
    rms_error: f64,
    weights: Vec<f32>,
    packed: Vec<u8>,
    dequantised: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let manifest: Value = serde_json::from_str(include_str!("../golden/quant.json")).unwrap();
    let arrays = SafeTensors::deserialize(include_bytes!("../golden/quant.safetensors")).unwrap();
    let bytes = |name: String| arrays.tensor(&name).unwrap().data().to_vec();
    let floats = |name| bytes(name).chunks(4).map(<f32 as Element>::from_le_bytes).collect();
    let case = |case: &Value| {
        let name = case["name"].as_str().unwrap();
        Case {
            name: name.to_owned(),
            format: case["type"].as_str().unwrap().to_owned(),
            rms_error: case["rms_error"].as_f64().unwrap(),
            weights: floats(format!("{name}.x")),
            packed: bytes(format!("{name}.packed")),
            dequantised: floats(format!("{name}.dequantized")),
        }
    };
    manifest["cases"].as_array().unwrap().iter().map(case).collect()
}

fn cases_of(format: &str) -> Vec<Case> {
    let found: Vec<_> = cases().into_iter().filter(|case| case.format == format).collect();
    assert!(found.len() >= 2, "{format}");
    found
}

fn blocks_mean_what_ggml_says<B: Block>(format: &str) {
    for case in cases_of(format) {
        let found = dequantised::<B>(&case.packed);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&case.dequantised), "{format} {}", case.name);
    }
}

#[test]
fn blocks_of_every_format_mean_what_ggml_says_to_the_bit() {
    blocks_mean_what_ggml_says::<Q8_0>("Q8_0");
    blocks_mean_what_ggml_says::<Q4_0>("Q4_0");
    blocks_mean_what_ggml_says::<Q5_0>("Q5_0");
    blocks_mean_what_ggml_says::<Q4K>("Q4_K");
    blocks_mean_what_ggml_says::<Q5K>("Q5_K");
    blocks_mean_what_ggml_says::<Q6K>("Q6_K");
}

fn packs_ggmls_bytes<B: Block>(format: &str) {
    for case in cases_of(format) {
        assert_eq!(quantised::<B>(&case.weights), case.packed, "{format} {}", case.name);
    }
}

#[test]
fn plain_formats_pack_ggmls_bytes() {
    packs_ggmls_bytes::<Q8_0>("Q8_0");
    packs_ggmls_bytes::<Q4_0>("Q4_0");
    packs_ggmls_bytes::<Q5_0>("Q5_0");
}

fn searches_better_than_ggml<B: Block>(format: &str) {
    for case in cases_of(format) {
        let error = squared_error(&case.weights, &restored::<B>(&case.weights));
        let rms = (error / case.weights.len() as f64).sqrt();
        println!("{format} {}: {rms:.4e}, ggml {:.4e}", case.name, case.rms_error);
        assert!(rms <= case.rms_error, "{format} {}: {rms} {}", case.name, case.rms_error);
    }
}

#[test]
fn searches_find_blocks_closer_than_ggmls() {
    searches_better_than_ggml::<Q4K>("Q4_K");
    searches_better_than_ggml::<Q5K>("Q5_K");
    searches_better_than_ggml::<Q6K>("Q6_K");
}

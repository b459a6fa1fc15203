//! Other people's numbers: torch's `flex_attention` in float64, made by `golden/make_attention.py`.

#![allow(clippy::unwrap_used)] // a fixture that cannot be read must fail the test

use std::collections::BTreeMap;

use mistral_attention::ndarray::{Array2, Array3, ArrayView3, Axis};
use mistral_attention::{Attention, AttentionConfig, KvView, Level, Window, reference};
use safetensors::SafeTensors;
use serde_json::Value;

struct Case {
    name: String,
    config: AttentionConfig,
    q: Array3<f32>,
    k: Array3<f32>,
    v: Array3<f32>,
    out: Array3<f32>,
    lse: Array2<f32>,
}

fn size(case: &Value, key: &str) -> Option<usize> {
    case[key].as_u64().map(|size| usize::try_from(size).unwrap())
}

/// All cases, and the tolerances on their outputs and log-sum-exps.
fn cases() -> (Vec<Case>, f64, f64) {
    let manifest: Value = serde_json::from_str(include_str!("golden/manifest.json")).unwrap();
    let arrays = SafeTensors::deserialize(include_bytes!("golden/attention.safetensors")).unwrap();
    let numbers = |name: &str| {
        let tensor = arrays.tensor(name).unwrap();
        let values = tensor.data().as_chunks().0.iter().copied();
        (tensor.shape().to_vec(), values.map(f32::from_le_bytes).collect::<Vec<_>>())
    };
    let array = |name: &str| {
        let (shape, values) = numbers(name);
        Array3::from_shape_vec(<[usize; 3]>::try_from(shape).unwrap(), values).unwrap()
    };
    let mut all = Vec::new();
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut config = AttentionConfig::new(
            size(case, "heads").unwrap(),
            size(case, "kv_heads").unwrap(),
            size(case, "D").unwrap(),
        )
        .with_window(Window::from_hf(size(case, "window")).unwrap())
        .with_sinks(size(case, "sinks").unwrap());
        if let Some(scale) = case["scale"].as_f64() {
            config = config.with_scale(scale as f32);
        }
        if let Some(soft_cap) = case["softcap"].as_f64() {
            config = config.with_soft_cap(soft_cap as f32);
        }
        let (shape, lse) = numbers(&format!("{name}.lse"));
        all.push(Case {
            name: name.to_owned(),
            config,
            q: array(&format!("{name}.q")),
            k: array(&format!("{name}.k")),
            v: array(&format!("{name}.v")),
            out: array(&format!("{name}.out")),
            lse: Array2::from_shape_vec(<[usize; 2]>::try_from(shape).unwrap(), lse).unwrap(),
        });
    }
    assert_eq!(all.len(), 36);
    let tolerance = |of: &str| manifest["tolerance"]["float32"][of].as_f64().unwrap();
    (all, tolerance("out"), tolerance("lse"))
}

/// The largest difference, with its place and both values.
fn worst(found: ArrayView3<'_, f64>, expected: ArrayView3<'_, f32>) -> (f64, String) {
    assert_eq!(found.dim(), expected.dim());
    let mut worst = (0.0, String::new());
    for (index, &found) in found.indexed_iter() {
        let expected = f64::from(expected[index]);
        let difference = (found - expected).abs();
        if difference.is_nan() || difference > worst.0 {
            worst = (difference, format!("{found} at {index:?}, expected {expected}"));
        }
    }
    worst
}

#[test]
fn outputs_are_those_of_torch_in_float64() {
    let (cases, tolerance, lse_tolerance) = cases();
    for case in cases {
        let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
        for level in Level::available() {
            let attention = Attention::new(case.config).unwrap().at_level(level);
            let mut out = Array3::zeros(case.q.dim());
            let mut lse = Array2::zeros(case.lse.dim());
            attention.call(case.q.view(), &kv).lse(lse.view_mut()).run(out.view_mut()).unwrap();
            let (difference, place) = worst(out.mapv(f64::from).view(), case.out.view());
            assert!(difference <= tolerance, "{} at {level}: {place}", case.name);
            for (index, &expected) in case.lse.indexed_iter() {
                let difference = f64::from((lse[index] - expected).abs());
                // Scores in the hundreds are f32 themselves: an ulp is more than the tolerance.
                let tolerance = lse_tolerance + f64::from(expected.abs() * f32::EPSILON);
                assert!(difference <= tolerance, "{}: lse {difference}", case.name);
            }
        }
    }
}

#[test]
fn the_reference_is_torch_in_float64() {
    // Expected values were rounded to f32, and scales such as 1/sqrt(80) are f32 here.
    for case in cases().0 {
        let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
        let exact = reference::exact(&case.config, case.q.view(), case.q.view(), &kv).unwrap();
        let (difference, place) = worst(exact.out.view(), case.out.view());
        let huge_scores = case.q.iter().any(|q| q.abs() > 20.0);
        let tolerance = if huge_scores { 2e-5 } else { 1e-6 };
        assert!(difference <= tolerance, "{}: {place}", case.name);
        for (index, &expected) in case.lse.indexed_iter() {
            let difference = (exact.lse[index] - f64::from(expected)).abs();
            let size = f64::from(expected.abs()).max(1.0);
            assert!(difference <= tolerance * size, "{}: lse off by {difference}", case.name);
        }
    }
}

#[test]
fn a_window_of_one_key_more_or_less_misses_torch_by_far() {
    let (cases, tolerance, _) = cases();
    let mut by_window = BTreeMap::new();
    for case in cases {
        let Some(size) = case.config.window().size().filter(|_| case.config.sinks() == 0) else {
            continue;
        };
        // Only where the window's left end lies inside the sequence.
        if size.get() < 2 || size.get() + 1 >= case.k.len_of(Axis(0)) {
            continue;
        }
        let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
        for wrong in [size.get() - 1, size.get() + 1] {
            let config = case.config.with_window(Window::last(wrong).unwrap());
            let mut out = Array3::zeros(case.q.dim());
            let attention = Attention::new(config).unwrap();
            attention.forward(case.q.view(), &kv, out.view_mut()).unwrap();
            let (difference, _) = worst(out.mapv(f64::from).view(), case.out.view());
            by_window.insert((case.name.clone(), wrong), difference);
        }
    }
    assert!(by_window.len() >= 20);
    for (case, difference) in by_window {
        assert!(difference > 100.0 * tolerance, "{case:?}: {difference}");
    }
}

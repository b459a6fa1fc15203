//! How far restored weights are from the drawn ones.

use mistral_core::quant::{Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, W4A8, W8A8};

use crate::{drawn, for_each_format, restored, squared_error};

const N: usize = 512 * 256;

/// Relative errors in percent: gaussian, laplacian, heavy-tailed weights.
const STATED: [[f64; 3]; 8] = [
    [0.5347, 0.6736, 0.7247],
    [8.5932, 10.7041, 11.5520],
    [4.2676, 5.3574, 5.7529],
    [6.9721, 8.2376, 8.4162],
    [3.4420, 4.0711, 4.1535],
    [1.6752, 2.0630, 2.1590],
    [0.6987, 0.9986, 1.2614],
    [7.0958, 8.4059, 8.6654],
];

/// Error as a share of the weights, both root mean squares.
fn relative(weights: &[f32], restored: &[f32]) -> f64 {
    let zeros = vec![0.0; weights.len()];
    (squared_error(weights, restored) / squared_error(weights, &zeros)).sqrt()
}

#[test]
fn errors_are_those_that_the_docs_state() {
    let kinds = [drawn::gaussian(N), drawn::laplacian(N), drawn::heavy_tailed(N)];
    let mut found = Vec::new();
    for_each_format!(Format => {
        let errors = kinds.each_ref().map(|w| 100.0 * relative(w, &restored::<Format>(w)));
        println!("{:?}: {errors:.4?} %", std::any::type_name::<Format>());
        found.push(errors);
    });
    for (found, stated) in found.iter().flatten().zip(STATED.as_flattened()) {
        assert!((found - stated).abs() <= 0.001 * stated, "{found} {stated}");
    }
}

/// What a group becomes whose step and minimum follow from its range, in units of 63rds of the
/// largest: the rule without a search.
fn by_range(weights: &[f32], top: f32) -> Vec<f32> {
    let largest = |x: &mut dyn Iterator<Item = f32>| x.fold(0.0f32, f32::max);
    let minimum = |group: &[f32]| largest(&mut group.iter().map(|w| -w));
    let step = |group: &[f32]| (largest(&mut group.iter().copied()) + minimum(group)) / top;
    let unit = largest(&mut weights.chunks(32).map(step)) / 63.0;
    let unit_minimum = largest(&mut weights.chunks(32).map(minimum)) / 63.0;
    let groups = weights.chunks(32).flat_map(|group| {
        let step = unit * (step(group) / unit).round();
        let minimum = unit_minimum * (minimum(group) / unit_minimum).round();
        group.iter().map(move |w| {
            let code = ((w + minimum) / step).round().clamp(0.0, top);
            step * code - minimum
        })
    });
    groups.collect()
}

/// The same for steps without minima: the largest magnitude gets code -32.
fn by_extreme(weights: &[f32]) -> Vec<f32> {
    let extreme =
        |group: &[f32]| group.iter().fold(0.0f32, |m, w| if w.abs() > m.abs() { *w } else { m });
    let unit = extreme(weights).abs() / 32.0 / 127.0;
    let groups = weights.chunks(16).flat_map(|group| {
        let step = unit * (extreme(group) / -32.0 / unit).round();
        group.iter().map(move |w| step * (w / step).round().clamp(-32.0, 31.0))
    });
    groups.collect()
}

#[test]
fn searching_is_closer_than_taking_ranges() {
    for weights in [drawn::gaussian(N), drawn::laplacian(N), drawn::heavy_tailed(N)] {
        let plain = |rule: &dyn Fn(&[f32]) -> Vec<f32>| {
            let restored: Vec<f32> = weights.chunks(256).flat_map(rule).collect();
            relative(&weights, &restored)
        };
        let ratios = [
            relative(&weights, &restored::<Q4K>(&weights)) / plain(&|w| by_range(w, 15.0)),
            relative(&weights, &restored::<Q5K>(&weights)) / plain(&|w| by_range(w, 31.0)),
            relative(&weights, &restored::<Q6K>(&weights)) / plain(&by_extreme),
        ];
        println!("{ratios:.3?}");
        assert!(ratios.iter().all(|ratio| *ratio <= 0.95), "{ratios:?}");
    }
}

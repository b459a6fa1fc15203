//! Other people's numbers: transformers' norm, rotation and feed-forward layer in float64.
#![allow(clippy::unwrap_used)] // a fixture that cannot be read must fail the test

use mistral_core::ndarray::{Array2, Array3, Axis};
use mistral_core::ops::{self, Rope, RopeLayout};
use mistral_core::{Element, Matrix};
use safetensors::SafeTensors;
use serde_json::Value;

struct Golden {
    cases: Vec<Value>,
    arrays: SafeTensors<'static>,
}

impl Golden {
    fn open() -> Self {
        let manifest: Value = serde_json::from_str(include_str!("golden/manifest.json")).unwrap();
        let arrays = SafeTensors::deserialize(include_bytes!("golden/ops.safetensors")).unwrap();
        Self { cases: manifest["cases"].as_array().unwrap().clone(), arrays }
    }

    fn cases(&self, op: &str) -> Vec<(String, &Value)> {
        let named = self.cases.iter().map(|case| (case["name"].as_str().unwrap().to_owned(), case));
        let found: Vec<_> = named.filter(|(_, case)| case["op"] == op).collect();
        assert!(found.len() >= 2, "{op}");
        found
    }

    fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.arrays.tensor(name).unwrap();
        let values = tensor.data().chunks(4).map(<f32 as Element>::from_le_bytes).collect();
        (tensor.shape().to_vec(), values)
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        let (shape, values) = self.values(name);
        Array2::from_shape_vec((shape[0], shape[1]), values).unwrap()
    }

    fn heads(&self, name: &str) -> Array3<f32> {
        let (shape, values) = self.values(name);
        Array3::from_shape_vec((shape[0], shape[1], shape[2]), values).unwrap()
    }
}

/// The largest difference, as a share of the largest value wanted.
fn relative(found: &Array2<f32>, want: &Array2<f32>) -> f32 {
    let largest = want.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
    let difference = found.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    difference / largest
}

#[test]
fn norms_equal_transformers() {
    let golden = Golden::open();
    for (name, case) in golden.cases("rms_norm") {
        let x = golden.matrix(&format!("{name}.x"));
        let weight = golden.values(&format!("{name}.weight")).1;
        let mut out = Array2::zeros(x.dim());
        let eps = case["eps"].as_f64().unwrap() as f32;
        ops::rms_norm(x.view(), &weight, eps, out.view_mut()).unwrap();
        let error = relative(&out, &golden.matrix(&format!("{name}.out")));
        assert!(error <= 2e-6, "{name}: {error}");
    }
}

#[test]
fn both_rotations_equal_their_inventors_at_every_position() {
    let golden = Golden::open();
    for (name, case) in golden.cases("rope") {
        let positions = case["positions"].as_array().unwrap().iter();
        let positions: Vec<usize> = positions.map(|p| p.as_u64().unwrap() as usize).collect();
        for (layout, suffix) in
            [(RopeLayout::HalfSplit, "half"), (RopeLayout::Interleaved, "interleaved")]
        {
            for side in ["q", "k"] {
                let mut x = golden.heads(&format!("{name}.{side}"));
                let want = golden.heads(&format!("{name}.{side}_{suffix}"));
                let rope = Rope::new(x.dim().2, case["theta"].as_f64().unwrap(), layout).unwrap();
                for (t, &position) in positions.iter().enumerate() {
                    let angles = rope.angles(position..position + 1);
                    let (_, mut token) = x.view_mut().split_at(Axis(0), t);
                    let token = token.view_mut().split_at(Axis(0), 1).0;
                    rope.apply(token, &angles).unwrap();
                }
                let worst = x.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                // Angles in f64 need no allowance for far positions.
                assert!(worst <= 1e-6, "{name} {side} {suffix}: {worst}");
            }
        }
    }
}

#[test]
fn the_feed_forward_layer_equals_transformers() {
    let golden = Golden::open();
    for (name, _) in golden.cases("swiglu") {
        let x = golden.matrix(&format!("{name}.x"));
        let project = |x: &Array2<f32>, weights: &str| {
            let weights = golden.matrix(&format!("{name}.{weights}"));
            let weights = Matrix::from_array(weights.view()).unwrap();
            let mut out = Array2::zeros((x.nrows(), weights.rows()));
            ops::matmul(x.view(), &weights, out.view_mut()).unwrap();
            out
        };
        let mut gate = project(&x, "gate");
        ops::swiglu(gate.view_mut(), project(&x, "up").view()).unwrap();
        let error = relative(&project(&gate, "down"), &golden.matrix(&format!("{name}.out")));
        assert!(error <= 1e-5, "{name}: {error}");
    }
}

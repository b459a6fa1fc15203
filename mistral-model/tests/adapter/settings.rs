//! What peft's settings mean: written otherwise, the golden adapter gives the golden logits.

use mistral_model::ndarray::{Array2, Axis, concatenate};
use mistral_model::{Config, Transformer};
use serde_json::{Value, json};

use super::files::{Peft, bits, golden, logits, peft_name, worst};
use super::golden::cases;

fn model() -> Transformer {
    Transformer::open(golden("models/v01")).unwrap()
}

/// Widens the matrices of a module with zeros.
fn pad(peft: &mut Peft, layer: usize, module: usize, rank: usize) {
    for (matrix, axis) in [("lora_A", Axis(0)), ("lora_B", Axis(1))] {
        let name = format!("{}.{matrix}.weight", peft_name(layer, module));
        let array = peft.tensors.0.get_mut(&name).unwrap();
        let mut shape = [array.nrows(), array.ncols()];
        shape[axis.index()] = rank - shape[axis.index()];
        let zeros = Array2::zeros(shape);
        *array = concatenate(axis, &[array.view(), zeros.view()]).unwrap();
    }
}

#[test]
fn settings_that_say_the_same_give_the_same_bits() {
    let model = model();
    let (_, tolerance, cases) = cases();
    let ids = &cases[3].ids;
    let of = |peft: &Peft| logits(&model, &[&peft.open(model.config())], ids, 9);
    let plain = of(&Peft::golden());
    assert!(worst(&plain, &cases[3].want) <= tolerance);
    let with = |field: &str, value: Value| Peft::golden().with(field, value);
    for same in [
        // 4 / sqrt(4) is 8 / 4.
        with("use_rslora", json!(true)).with("lora_alpha", json!(4)),
        with("lora_alpha", json!(2)).with("alpha_pattern", json!({"q_proj": 8, "v_proj": 8.0})),
        with("alpha_pattern", json!({"k_proj": 1, "layers.7.self_attn.q_proj": 1})),
        with("r", json!(2)).with("rank_pattern", json!({r".*\.(q|v)_proj": 4})),
        with("target_modules", json!(r".*\.self_attn\.(q_proj|v_proj)")),
        with("target_modules", json!(["self_attn.q_proj", "v_proj", "elsewhere"])),
        with("target_modules", Value::Null),
        with("target_modules", json!(["q_proj", "v_proj", "k_proj"]))
            .with("exclude_modules", json!(["self_attn.k_proj"])),
        with("layers_to_transform", json!([0, 1, 2])).with("layers_pattern", json!("layers")),
        with("fan_in_fan_out", json!(true)),
        with("init_lora_weights", json!("gaussian")).with("loftq_config", json!({"bits": 4})),
        with("bias", json!("lora_only")).with("a_setting_to_come", json!(false)),
    ] {
        assert_eq!(bits(&of(&same)), bits(&plain), "{}", same.settings);
    }
    for other in [
        with("use_rslora", json!(true)),
        with("alpha_pattern", json!({"layers.2.self_attn.q_proj": 7})),
        // The first that fits counts, and not the one that fits best.
        with("alpha_pattern", json!({".*": 7, "q_proj": 8})),
    ] {
        assert!(worst(&of(&other), &plain) > 0.1, "{}", other.settings);
    }
}

#[test]
fn a_module_with_a_rank_and_alpha_of_its_own_is_scaled_by_them() {
    let model = model();
    let (_, tolerance, cases) = cases();
    let ids = &cases[3].ids;
    // Rank 6 with alpha 12: still a factor of 2. Under rsLoRA the same needs 2 * sqrt(6).
    for (alpha, rslora, own) in [(8.0, false, 12.0), (4.0, true, 2.0 * 6f64.sqrt())] {
        let mut peft = Peft::golden();
        pad(&mut peft, 1, 0, 6);
        let peft = peft
            .with("use_rslora", json!(rslora))
            .with("lora_alpha", json!(alpha))
            .with("rank_pattern", json!({"layers.1.self_attn.q_proj": 6}))
            .with("alpha_pattern", json!({"model.layers.1.self_attn.q_proj": own}));
        let found = logits(&model, &[&peft.open(model.config())], ids, 9);
        assert!(worst(&found, &cases[3].want) <= tolerance, "{}", peft.settings);
    }
}

#[test]
fn only_the_layers_that_are_asked_for_are_adapted() {
    let model = model();
    let config: &Config = model.config();
    for layers in [json!([1]), json!(1)] {
        let mut peft = Peft::golden().with("layers_to_transform", layers);
        peft.tensors.0.retain(|name, _| name.contains(".layers.1."));
        assert_eq!(peft.open(config).projections(), 2);
    }
    let mut peft = Peft::golden().with("target_modules", json!(r"model\.layers\.[02]\..*q_proj"));
    peft.tensors.0.retain(|name, _| !name.contains(".layers.1.") && name.contains("q_proj"));
    assert_eq!(peft.open(config).projections(), 2);
}

#[test]
fn a_fingerprint_changes_with_any_weight_its_place_and_its_factor() {
    let config = model().config().clone();
    let of = |peft: &Peft| peft.open(&config).fingerprint().unwrap();
    let base = Peft::golden();
    let before = of(&base);
    assert_eq!(of(&base.clone().with("fan_in_fan_out", json!(true))), before);
    let mut others = vec![of(&base.clone().with("lora_alpha", json!(7)))];
    for name in base.tensors.0.keys() {
        let mut changed = base.clone();
        *changed.tensors.0.get_mut(name).unwrap().last_mut().unwrap() += 0.5;
        others.push(of(&changed));
    }
    let mut moved = Peft::random(&config, &[0], 2, 1);
    others.push(of(&moved));
    // From the first queries to the second.
    for matrix in ["lora_A", "lora_B"] {
        let name = |layer| format!("{}.{matrix}.weight", peft_name(layer, 0));
        let tensors = &mut moved.tensors.0;
        let (first, second) = (tensors[&name(0)].clone(), tensors[&name(1)].clone());
        tensors.extend([(name(0), second), (name(1), first)]);
    }
    others.push(of(&moved));
    for (index, other) in others.iter().enumerate() {
        assert!(*other != before && !others[..index].contains(other), "{index}");
    }
}

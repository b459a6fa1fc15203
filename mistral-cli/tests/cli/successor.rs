//! Models that say what a test wants to hear.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mistral_model::Tokenizer;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

/// Numbers of an embedding: as many tokens have a successor at most.
const DIM: usize = 64;

/// The folder of a model in which each token has one successor, whatever stood before it.
///
/// A chain is what follows its first piece, and the end of the text follows its last one. No piece
/// may come twice but as an end. Attention and feed-forward add nothing: the embedding of a token is
/// a place of its own, and the output matrix sends that place to the token's successor.
pub(crate) fn model(tokenizer: &Path, chains: &[&[&str]]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tokenizer, folder.path().join("tokenizer.model")).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let vocab = tokenizer.vocab_size();
    let id = |piece: &&str| tokenizer.id(piece).ok_or(*piece).unwrap();
    let (mut embedding, mut output) = (vec![0.0; vocab * DIM], vec![0.0; vocab * DIM]);
    let mut places = BTreeMap::new();
    for chain in chains {
        let ids: Vec<u32> = chain.iter().chain(&["</s>"]).map(id).collect();
        for pair in ids.windows(2) {
            let place = places.len();
            assert!(place < DIM, "more than {DIM} tokens");
            assert_eq!(places.insert(pair[0], place), None, "{:?} twice", tokenizer.piece(pair[0]));
            embedding[pair[0] as usize * DIM + place] = 1.0;
            output[pair[1] as usize * DIM + place] = 1.0;
        }
    }
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let (square, ones) = (vec![0.0; DIM * DIM], vec![1.0; DIM]);
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), (vec![vocab, DIM], embedding)),
        ("lm_head.weight".to_owned(), (vec![vocab, DIM], output)),
    ]);
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        tensors.insert(layer(&format!("self_attn.{name}")), (vec![DIM, DIM], square.clone()));
    }
    for name in ["gate_proj", "up_proj", "down_proj"] {
        tensors.insert(layer(&format!("mlp.{name}")), (vec![DIM, DIM], square.clone()));
    }
    let norms = ["input_layernorm", "post_attention_layernorm"].map(layer);
    for name in norms.into_iter().chain(["model.norm.weight".to_owned()]) {
        tensors.insert(name, (vec![DIM], ones.clone()));
    }
    write(folder.path(), &tensors, vocab);
    folder
}

fn write(folder: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>, vocab: usize) {
    let bytes = |weights: &[f32]| weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = tensors.values().map(|(_, weights)| bytes(weights)).collect();
    let views = tensors.iter().zip(&data).map(|((name, (shape, _)), data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    let config = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "hidden_size": DIM, "intermediate_size": DIM, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": DIM, "vocab_size": vocab,
        "sliding_window": null, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

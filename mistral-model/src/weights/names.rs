//! One table: what each parameter is called in Hugging Face's files, in Mistral's own and in GGUF
//! files, and what shape it has. Foreign spellings of parameters stand only here.

use mistral_core::ops::RopeLayout;
use mistral_core::{Matrix, WeightFormat};

use crate::config::Config;
use crate::low_rank::{Projection, Target};

/// Whose names a checkpoint uses, and with them whose order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `model.safetensors`: `model.layers.0.self_attn.q_proj.weight`, half-split rotation.
    HuggingFace,
    /// `consolidated.safetensors`: `layers.0.attention.wq.weight`, interleaved rotation.
    Mistral,
    /// `*.gguf`: `blk.0.attn_q.weight`, interleaved rotation.
    Gguf,
}

impl Naming {
    /// The order of the rows of `q_proj` and `k_proj`.
    pub fn rope_layout(self) -> RopeLayout {
        match self {
            Self::HuggingFace => RopeLayout::HalfSplit,
            Self::Mistral | Self::Gguf => RopeLayout::Interleaved,
        }
    }
}

/// A parameter of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerField {
    AttentionNorm,
    Q,
    K,
    V,
    O,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

impl LayerField {
    /// Which projection it is; `None` for a norm.
    pub(super) fn projection(self) -> Option<Projection> {
        match self {
            Self::AttentionNorm | Self::FeedForwardNorm => None,
            Self::Q => Some(Projection::Q),
            Self::K => Some(Projection::K),
            Self::V => Some(Projection::V),
            Self::O => Some(Projection::O),
            Self::Gate => Some(Projection::Gate),
            Self::Up => Some(Projection::Up),
            Self::Down => Some(Projection::Down),
        }
    }
}

/// A parameter of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Embedding,
    Layer(usize, LayerField),
    Norm,
    Output,
}

/// A parameter with its names in Hugging Face's, Mistral's own and GGUF files.
pub(super) type Row<F> = (F, [&'static str; 3]);

/// Parameters within a layer.
pub(super) const LAYER: [Row<LayerField>; 9] = [
    (LayerField::AttentionNorm, ["input_layernorm", "attention_norm", "attn_norm"]),
    (LayerField::Q, ["self_attn.q_proj", "attention.wq", "attn_q"]),
    (LayerField::K, ["self_attn.k_proj", "attention.wk", "attn_k"]),
    (LayerField::V, ["self_attn.v_proj", "attention.wv", "attn_v"]),
    (LayerField::O, ["self_attn.o_proj", "attention.wo", "attn_output"]),
    (LayerField::FeedForwardNorm, ["post_attention_layernorm", "ffn_norm", "ffn_norm"]),
    (LayerField::Gate, ["mlp.gate_proj", "feed_forward.w1", "ffn_gate"]),
    (LayerField::Up, ["mlp.up_proj", "feed_forward.w3", "ffn_up"]),
    (LayerField::Down, ["mlp.down_proj", "feed_forward.w2", "ffn_down"]),
];

/// Parameters outside the layers.
const MODEL: [Row<Field>; 3] = [
    (Field::Embedding, ["model.embed_tokens", "tok_embeddings", "token_embd"]),
    (Field::Norm, ["model.norm", "norm", "output_norm"]),
    (Field::Output, ["lm_head", "output", "output"]),
];

impl Naming {
    /// This naming's column of the table.
    fn pick(self, names: [&'static str; 3]) -> &'static str {
        let [hugging_face, mistral, gguf] = names;
        match self {
            Self::HuggingFace => hugging_face,
            Self::Mistral => mistral,
            Self::Gguf => gguf,
        }
    }

    /// What stands before the number of a layer.
    fn layers(self) -> &'static str {
        self.pick(["model.layers", "layers", "blk"])
    }

    /// The module that holds a parameter of a layer.
    fn module(self, layer: usize, names: [&'static str; 3]) -> String {
        format!("{}.{layer}.{}", self.layers(), self.pick(names))
    }

    /// The modules with the embedding and the output matrix.
    pub(super) fn vocabulary(self) -> [&'static str; 2] {
        let [(_, embedding), _, (_, output)] = MODEL;
        [self.pick(embedding), self.pick(output)]
    }
}

/// A tensor that a checkpoint of some configuration must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) field: Field,
    pub(super) name: String,
    /// One size for a norm, `(rows, cols)` for a matrix.
    pub(super) shape: Vec<usize>,
}

/// Every tensor of a model, in the order in which a forward pass needs them.
pub(super) fn expected(config: &Config, naming: Naming) -> Vec<Expected> {
    let mut all = Vec::new();
    for (field, names) in MODEL {
        let shape = match field {
            Field::Norm => vec![config.dim],
            Field::Output if config.tied_embeddings => continue,
            _ => vec![config.vocab_size, config.dim],
        };
        all.push(Expected { field, name: format!("{}.weight", naming.pick(names)), shape });
    }
    for layer in 0..config.n_layers {
        for (field, names) in LAYER {
            let name = format!("{}.weight", naming.module(layer, names));
            let shape = layer_shape(config, field);
            all.push(Expected { field: Field::Layer(layer, field), name, shape });
        }
    }
    all
}

/// A matrix that an adapter may add to, by the name of its module.
pub(super) struct Module {
    pub(super) target: Target,
    pub(super) name: String,
    /// `(outputs, inputs)`
    pub(super) shape: [usize; 2],
}

/// Every projection of a model, and its output matrix if peft may have adapted it.
pub(super) fn adaptable(config: &Config, naming: Naming) -> impl Iterator<Item = Module> {
    let of_layer = move |layer| {
        LAYER.into_iter().filter_map(move |(field, names)| {
            let projection = field.projection()?;
            let shape = layer_shape(config, field).try_into().ok()?;
            let target = Target::Layer(layer, projection);
            Some(Module { target, name: naming.module(layer, names), shape })
        })
    };
    // mistral-finetune adapts the layers alone.
    let output = (naming == Naming::HuggingFace).then(|| {
        let [_, output] = naming.vocabulary();
        let shape = [config.vocab_size, config.dim];
        Module { target: Target::Output, name: output.to_owned(), shape }
    });
    (0..config.n_layers).flat_map(of_layer).chain(output)
}

/// Bytes that a tensor takes in memory, a matrix in `format`. `None` beyond `usize`, or where rows
/// are no whole blocks.
pub(super) fn bytes(shape: &[usize], format: WeightFormat) -> Option<usize> {
    match *shape {
        [rows, cols] => Matrix::bytes_for(rows, cols, format),
        // A norm.
        _ => shape.iter().product::<usize>().checked_mul(size_of::<f32>()),
    }
}

fn layer_shape(config: &Config, field: LayerField) -> Vec<usize> {
    // Not wrapped to a small number, which files might fit: no matrix has usize::MAX rows.
    let q = config.n_heads.saturating_mul(config.head_dim);
    let kv = config.n_kv_heads.saturating_mul(config.head_dim);
    match field {
        LayerField::AttentionNorm | LayerField::FeedForwardNorm => vec![config.dim],
        LayerField::Q => vec![q, config.dim],
        LayerField::K | LayerField::V => vec![kv, config.dim],
        LayerField::O => vec![config.dim, q],
        LayerField::Gate | LayerField::Up => vec![config.hidden_dim, config.dim],
        LayerField::Down => vec![config.dim, config.hidden_dim],
    }
}

/// Whether a tensor that no field asks for is known to carry nothing: old checkpoints store the
/// rotation frequencies, and some with tied embeddings the output matrix a second time.
pub(super) fn is_redundant(name: &str, config: &Config) -> bool {
    let output = MODEL.iter().any(|(field, names)| {
        *field == Field::Output && name.strip_suffix(".weight").is_some_and(|n| names.contains(&n))
    });
    name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && output)
}

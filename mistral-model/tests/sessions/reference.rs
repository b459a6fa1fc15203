//! The model in f64, one number after the other, with whatever a token sees of those before it.

use std::collections::BTreeMap;

use mistral_model::{Config, Transformer};
use safetensors::tensor::{Dtype, TensorView};

/// Which keys the tokens of a chunk may see, beside those of the chunk that stand before them.
pub(crate) enum Keeping {
    /// Each layer's last so many, a token's own included.
    Windows(Vec<usize>),
    /// StreamingLLM: the first so many as well, all of them at the positions of their places in the
    /// list of what is seen (arXiv:2309.17453, section 3.2).
    Sinks { sinks: usize, windows: Vec<usize> },
    /// H2O: the last `recent`, and of the older ones the `heavy` with the largest weight.
    HeavyHitters { recent: usize, heavy: usize },
}

/// Weights by their names, `(outputs, inputs)` row by row.
pub(crate) struct Reference {
    config: Config,
    weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// What a key/value head knows of a position.
#[derive(Clone)]
struct Row {
    position: usize,
    /// Not rotated.
    key: Vec<f64>,
    value: Vec<f64>,
    weight: f64,
}

impl Reference {
    /// Random weights, the same for the same seed.
    pub(crate) fn random(config: &Config, seed: u64) -> Self {
        let mut state = seed;
        let mut draw = |rows: usize, columns: usize| {
            let scale = 1.7 / (columns as f32).sqrt();
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
            };
            (vec![rows, columns], (0..rows * columns).map(|_| next()).collect())
        };
        let Config { dim, hidden_dim, vocab_size, .. } = *config;
        let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let ones = || (vec![dim], vec![1.0; dim]);
        let mut weights = BTreeMap::new();
        weights.insert("model.embed_tokens.weight".to_owned(), draw(vocab_size, dim));
        weights.insert("lm_head.weight".to_owned(), draw(vocab_size, dim));
        weights.insert("model.norm.weight".to_owned(), ones());
        for layer in 0..config.n_layers {
            let mut insert = |name: &str, tensor| {
                weights.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
            };
            insert("input_layernorm", ones());
            insert("post_attention_layernorm", ones());
            // Peaked attention: which key is seen shall matter.
            let sharp =
                |(shape, data): (_, Vec<f32>)| (shape, data.iter().map(|x| x * 2.0).collect());
            insert("self_attn.q_proj", sharp(draw(q, dim)));
            insert("self_attn.k_proj", sharp(draw(kv, dim)));
            insert("self_attn.v_proj", draw(kv, dim));
            insert("self_attn.o_proj", draw(dim, q));
            insert("mlp.gate_proj", draw(hidden_dim, dim));
            insert("mlp.up_proj", draw(hidden_dim, dim));
            insert("mlp.down_proj", draw(dim, hidden_dim));
        }
        Self { config: config.clone(), weights }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.weights.keys().cloned().collect()
    }

    /// Multiplies the weights of one name.
    pub(crate) fn scale(&mut self, name: &str, by: f32) {
        let (_, data) = self.weights.get_mut(name).unwrap();
        data.iter_mut().for_each(|weight| *weight *= by);
    }

    /// The same weights as the library runs them, under another configuration if need be.
    pub(crate) fn transformer(&self, config_json: &str) -> Transformer {
        let bytes: BTreeMap<_, Vec<u8>> = self
            .weights
            .iter()
            .map(|(name, (_, data))| (name, data.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = self.weights.iter().map(|(name, (shape, _))| {
            (name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        Transformer::from_bytes(config_json, &file).unwrap()
    }

    /// Logits after each token, row by row.
    pub(crate) fn logits(&self, tokens: &[u32], chunk: usize, keeping: &Keeping) -> Vec<f64> {
        let config = &self.config;
        let mut kept = vec![vec![Vec::<Row>::new(); config.n_kv_heads]; config.n_layers];
        let mut logits = Vec::new();
        for (index, tokens) in tokens.chunks(chunk).enumerate() {
            let mut hidden: Vec<Vec<f64>> = tokens.iter().map(|t| self.row(*t as usize)).collect();
            for (layer, kept) in kept.iter_mut().enumerate() {
                self.block(layer, &mut hidden, index * chunk, (kept, keeping));
            }
            for x in hidden {
                logits.extend(self.times("lm_head.weight", &norm(&x, config.norm_eps)));
            }
        }
        logits
    }

    fn block(
        &self,
        layer: usize,
        hidden: &mut [Vec<f64>],
        start: usize,
        (kept, keeping): (&mut [Vec<Row>], &Keeping),
    ) {
        let config = &self.config;
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let (dim, group) = (config.head_dim, config.n_heads / config.n_kv_heads);
        let mut attended = vec![Vec::new(); hidden.len()];
        for (head, rows) in kept.iter_mut().enumerate() {
            let part = |projected: Vec<f64>, head: usize| projected[head * dim..][..dim].to_vec();
            let old = rows.len();
            for (i, x) in hidden.iter().enumerate() {
                let x = norm(x, config.norm_eps);
                let key = part(self.times(&name("self_attn.k_proj"), &x), head);
                let value = part(self.times(&name("self_attn.v_proj"), &x), head);
                rows.push(Row { position: start + i, key, value, weight: 0.0 });
            }
            for (i, x) in hidden.iter().enumerate() {
                let x = norm(x, config.norm_eps);
                let q = self.times(&name("self_attn.q_proj"), &x);
                let position = start + i;
                let seen = rows[..old + i + 1].iter_mut();
                let mut seen: Vec<_> =
                    seen.filter(|row| keeping.sees(layer, position, row.position)).collect();
                let keys = seen.iter().enumerate().map(|(place, row)| {
                    self.rotated(row.key.clone(), keeping.place(place, row.position))
                });
                let (keys, place) = (keys.collect::<Vec<_>>(), seen.len() - 1);
                for query in head * group..(head + 1) * group {
                    let q = self.rotated(part(q.clone(), query), keeping.place(place, position));
                    let scale = (dim as f64).sqrt();
                    let weights = softmax(keys.iter().map(|key| dot(&q, key) / scale));
                    let mut out = vec![0.0; dim];
                    for (row, weight) in seen.iter_mut().zip(weights) {
                        row.weight += weight;
                        out.iter_mut().zip(&row.value).for_each(|(o, v)| *o += weight * v);
                    }
                    attended[i].extend(out);
                }
            }
            if let Keeping::HeavyHitters { recent, heavy } = *keeping {
                evict(rows, start + hidden.len(), recent, heavy);
            }
        }
        for (x, attended) in hidden.iter_mut().zip(attended) {
            add(x, self.times(&name("self_attn.o_proj"), &attended));
            let normed = norm(x, config.norm_eps);
            let gate = self.times(&name("mlp.gate_proj"), &normed);
            let up = self.times(&name("mlp.up_proj"), &normed);
            let product: Vec<f64> =
                gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, self.times(&name("mlp.down_proj"), &product));
        }
    }

    fn row(&self, token: usize) -> Vec<f64> {
        let dim = self.config.dim;
        let (_, data) = &self.weights["model.embed_tokens.weight"];
        data[token * dim..][..dim].iter().map(|x| f64::from(*x)).collect()
    }

    /// A matrix times a vector.
    fn times(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (_, data) = &self.weights[name];
        let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        data.chunks_exact(x.len()).map(row).collect()
    }

    /// Element `d` is paired with `d + head_dim / 2`.
    fn rotated(&self, mut head: Vec<f64>, position: usize) -> Vec<f64> {
        let half = head.len() / 2;
        for d in 0..half {
            let frequency = self.config.rope_theta.powf(-(d as f64) / half as f64);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (a, b) = (head[d], head[d + half]);
            (head[d], head[d + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
        head
    }
}

impl Keeping {
    fn sees(&self, layer: usize, query: usize, key: usize) -> bool {
        match self {
            Self::Windows(windows) => query - key < windows[layer],
            Self::Sinks { sinks, windows } => query - key < windows[layer] || key < *sinks,
            Self::HeavyHitters { .. } => true,
        }
    }

    /// What the rotation takes for the position of a token, which is number `place` of what a query
    /// sees.
    fn place(&self, place: usize, position: usize) -> usize {
        match self {
            Self::Sinks { .. } => place,
            Self::Windows(_) | Self::HeavyHitters { .. } => position,
        }
    }
}

/// Drops the lightest rows that are older than the last `recent` positions before `end`.
fn evict(rows: &mut Vec<Row>, end: usize, recent: usize, heavy: usize) {
    while rows.len() > recent + heavy {
        let older = rows.iter().enumerate().filter(|(_, row)| row.position + recent < end);
        let lightest = older.min_by(|a, b| a.1.weight.total_cmp(&b.1.weight)).unwrap().0;
        rows.remove(lightest);
    }
}

fn norm(x: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x / (mean + f64::from(eps)).sqrt()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(scores: impl Iterator<Item = f64>) -> Vec<f64> {
    let scores: Vec<f64> = scores.collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
    scores.iter().map(|score| (score - most).exp() / sum).collect()
}

fn add(x: &mut [f64], y: Vec<f64>) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// The largest difference, with its index and both values.
pub(crate) fn worst(found: &[f32], expected: &[f64]) -> (f64, usize, f32, f64) {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).enumerate();
    let differences = pairs.map(|(i, (f, e))| ((f64::from(*f) - e).abs(), i, *f, *e));
    differences.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

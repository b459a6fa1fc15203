//! What stays the same from call to call: heads, window and scale.

use crate::error::AttentionError;
use crate::window::Window;

/// The shape of an attention layer.
///
/// ```
/// use mistral_attention::{Attention, AttentionConfig, Window};
///
/// // Mistral 7B v0.1: 32 query heads in groups of four, each group on one key/value head.
/// let config = AttentionConfig::new(32, 8, 128).with_window(Window::last(4096)?);
/// assert_eq!(config.group_size(), 4);
/// assert_eq!(config.scale(), 1.0 / 128f32.sqrt());
/// let attention = Attention::new(config)?;
/// # assert_eq!(attention.config(), config);
/// # Ok::<(), mistral_attention::AttentionError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct AttentionConfig {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    window: Window,
    sinks: usize,
    scale: Option<f32>,
    soft_cap: Option<f32>,
}

impl AttentionConfig {
    /// `n_heads` query heads that share `n_kv_heads` key/value heads of `head_dim` elements.
    ///
    /// Query head `h` reads key/value head `h / (n_heads / n_kv_heads)` (grouped-query attention,
    /// arXiv:2305.13245). Equal numbers are multi-head, one key/value head is multi-query
    /// attention. There is no window, and the scale is `1 / sqrt(head_dim)`, until said otherwise.
    /// [`Attention::new`](crate::Attention::new) checks the numbers.
    pub fn new(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        let window = Window::Full;
        Self { n_heads, n_kv_heads, head_dim, window, sinks: 0, scale: None, soft_cap: None }
    }

    /// Limits how far back a query sees.
    pub fn with_window(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// Scores are `scale * q . k` instead of `q . k / sqrt(head_dim)`.
    pub fn with_scale(self, scale: f32) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// Every query sees the first `sinks` positions as well, however far back they lie
    /// (StreamingLLM, arXiv:2309.17453, section 3).
    pub fn with_sinks(self, sinks: usize) -> Self {
        Self { sinks, ..self }
    }

    /// Scores are `soft_cap * tanh(score / soft_cap)`, after the scale and before the mask
    /// (arXiv:2408.00118, section 2).
    pub fn with_soft_cap(self, soft_cap: f32) -> Self {
        Self { soft_cap: Some(soft_cap), ..self }
    }

    /// Query heads.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// Key/value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Elements in one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Query heads that share a key/value head; 0 if there is no key/value head.
    pub fn group_size(&self) -> usize {
        self.n_heads.checked_div(self.n_kv_heads).unwrap_or(0)
    }

    /// How far back a query sees.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The factor between `q . k` and a score.
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or_else(|| (1.0 / (self.head_dim as f64).sqrt()) as f32)
    }

    /// How many of the first positions every query sees.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// The bound that scores approach; `None` if they have none.
    pub fn soft_cap(&self) -> Option<f32> {
        self.soft_cap
    }

    /// Finds what no call could make good.
    pub(crate) fn check(&self) -> Result<(), AttentionError> {
        let sizes = [
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
        ];
        for (name, size) in sizes {
            if size == 0 {
                return Err(AttentionError::ZeroSize { name });
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(AttentionError::UngroupedHeads {
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
            });
        }
        if !self.scale().is_finite() {
            return Err(AttentionError::BadScale { found: self.scale() });
        }
        match self.soft_cap {
            Some(found) if !(found.is_finite() && found >= f32::MIN_POSITIVE) => {
                return Err(AttentionError::BadSoftCap { found });
            }
            _ => {}
        }
        Ok(())
    }
}

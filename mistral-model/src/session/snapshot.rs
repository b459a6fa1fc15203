//! Sessions on disk.

use std::borrow::Borrow;
use std::path::Path;

use super::cache::Cache;
use super::{Session, SessionOptions};
use crate::error::ModelError;
use crate::transformer::Transformer;

impl<M: Borrow<Transformer>> Session<M> {
    /// Writes tokens, keys and values to a file, so that the session can go on in another process.
    ///
    /// The file names the model by its [`fingerprint`](Transformer::fingerprint) and has a
    /// checksum. It is written aside and renamed when it is whole and on the disk, so there is the
    /// old file or the new one at any time. What a [`Sampler`](crate::Sampler) has drawn is not in
    /// it.
    ///
    /// # Errors
    ///
    /// - [`ModelError::Snapshot`]: the file cannot be written.
    /// - [`ModelError::HeavyHitters`]: a session that forgets what gets little attention.
    /// - [`ModelError::Adapter`]: a session with adapters.
    /// - [`ModelError::Interrupted`]: an earlier error left a chunk half done.
    ///
    /// # Cost
    ///
    /// Writes what is kept: [`cache_bytes`](Self::cache_bytes) at most.
    pub fn save_file(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        self.check_whole()?;
        self.check_no_adapters("a snapshot")?;
        self.cache.save_file(self.model().fingerprint()?, &self.tokens, path.as_ref())
    }

    /// A session from a file: what it computes has the same bits as if it had never been away.
    ///
    /// Format, sinks and rewind slack of the `options` must be those it was saved with; `max_chunk`
    /// may differ. There are no [`logits`](Self::logits) until a token is appended, or
    /// [`refresh_logits`](Self::refresh_logits) computes them again.
    ///
    /// ```
    /// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
    /// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
    /// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
    /// # let model = Transformer::random(&config, DType::BF16, 7)?;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("chat.kv");
    /// let options = SessionOptions::default();
    /// let mut session = Session::new(&model, options)?;
    /// session.prefill(&[1, 2, 3])?;
    /// session.save_file(&path)?;
    ///
    /// let mut restored = Session::restore_file(&model, options, &path)?;
    /// assert_eq!(restored.tokens(), [1, 2, 3]);
    /// assert_eq!(restored.decode(4)?, session.decode(4)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ModelError::Snapshot`]: the file cannot be read, is damaged, or was saved with another
    ///   model, window or options.
    /// - [`ModelError::SnapshotTokens`], [`ModelError::UnknownToken`]: it has not a token of the
    ///   model for each position.
    /// - [`ModelError::HeavyHitters`]: the options ask for them.
    ///
    /// And as [`new`](Self::new).
    ///
    /// # Cost
    ///
    /// Reads the file once; buffers of a chunk are allocated when one is appended.
    pub fn restore_file(
        model: M,
        options: SessionOptions,
        path: impl AsRef<Path>,
    ) -> Result<Self, ModelError> {
        if options.heavy_hitters.is_some() {
            return Err(ModelError::HeavyHitters { what: "a snapshot" });
        }
        let fingerprint = model.borrow().fingerprint()?;
        let mut tokens = Vec::new();
        let mut session = Self::with_cache(model, options, 1, |config, options| {
            let (cache, saved) = Cache::restore_file(config, options, fingerprint, path.as_ref())?;
            tokens = saved;
            Ok(cache)
        })?;
        if tokens.len() != session.position() {
            let (found, position) = (tokens.len(), session.position());
            return Err(ModelError::SnapshotTokens { found, position });
        }
        session.model().check_tokens(&tokens)?;
        session.tokens = tokens;
        Ok(session)
    }
}

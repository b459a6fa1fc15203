//! Ctrl-C.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// Who presses again so soon wants nothing else: a token of a large model may take as long.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Ctrl-C, noted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    /// When it was first pressed since listening began, if it was.
    first: Arc<Mutex<Option<Instant>>>,
    /// Whether it was, for those who only read.
    flag: Arc<AtomicBool>,
    /// Whether nothing is under way that it could stop.
    idle: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on the first Ctrl-C is only noted, unless it finds us [idle](Self::idle), and one
    /// that comes later than a second after it ends the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let noted = interrupt.clone();
        ctrlc::set_handler(move || {
            let mut first = noted.first();
            let ends = match *first {
                None => noted.idle.load(Ordering::Relaxed),
                Some(first) => first.elapsed() > SAME_WISH,
            };
            if ends {
                process::exit(1);
            }
            first.get_or_insert_with(Instant::now);
            noted.flag.store(true, Ordering::Relaxed);
        })?;
        Ok(interrupt)
    }

    pub(crate) fn pressed(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Becomes true when Ctrl-C is pressed.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Whether there is nothing that the first Ctrl-C could stop but the process.
    pub(crate) fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// The next Ctrl-C is the first again.
    pub(crate) fn forget(&self) {
        *self.first() = None;
        self.flag.store(false, Ordering::Relaxed);
    }

    fn first(&self) -> MutexGuard<'_, Option<Instant>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on Ctrl-C runs `clean_up` and ends the process as a failure.
pub(crate) fn clean_up_and_exit(
    mut clean_up: impl FnMut() + Send + 'static,
) -> Result<(), Failure> {
    ctrlc::set_handler(move || {
        clean_up();
        process::exit(1);
    })?;
    Ok(())
}

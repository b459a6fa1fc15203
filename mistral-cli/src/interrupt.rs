//! Ctrl-C.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

/// Whether Ctrl-C was pressed since listening began.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C is only noted, and the second ends the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let pressed = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&pressed);
        ctrlc::set_handler(move || {
            if noted.swap(true, Ordering::Relaxed) {
                process::exit(1);
            }
        })?;
        Ok(Self(pressed))
    }

    pub(crate) fn pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The next Ctrl-C is the first again.
    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
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

//! A sliding window as it is written on the command line.

use std::str::FromStr;

use mistral_model::Window;

/// `4096`, or `none`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowSize(pub(crate) Window);

/// Neither.
#[derive(Debug, thiserror::Error)]
#[error("expected a number of tokens above 0, or none")]
pub(crate) struct NotAWindow;

impl FromStr for WindowSize {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, NotAWindow> {
        if text == "none" {
            return Ok(Self(Window::Full));
        }
        let size = text.parse().map_err(|_| NotAWindow)?;
        Window::last(size).map(Self).map_err(|_| NotAWindow)
    }
}

#[cfg(test)]
mod tests {
    use mistral_model::Window;

    use super::WindowSize;

    #[test]
    fn a_window_is_a_number_or_none() {
        let parse = |text: &str| text.parse().ok().map(|WindowSize(window)| window);
        assert_eq!(parse("none"), Some(Window::Full));
        assert_eq!(parse("4096"), Window::last(4096).ok());
        for bad in ["0", "-1", "", "None", "4096 tokens"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}

//! A bias as it is written on the command line.

use std::str::FromStr;

/// `422=-1.5`, or `422=-inf`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenBias {
    pub(crate) token: u32,
    pub(crate) bias: f32,
}

/// Neither.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a token id and a number, as in 422=-1.5, or 422=-inf")]
pub(crate) struct NotABias;

impl FromStr for TokenBias {
    type Err = NotABias;

    fn from_str(text: &str) -> Result<Self, NotABias> {
        let (token, bias) = text.split_once('=').ok_or(NotABias)?;
        let token = token.trim().parse().map_err(|_| NotABias)?;
        let bias = bias.trim().parse().map_err(|_| NotABias)?;
        Ok(Self { token, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::{NotABias, TokenBias};

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        let parse = |text: &str| text.parse::<TokenBias>();
        assert_eq!(parse("422=-1.5"), Ok(TokenBias { token: 422, bias: -1.5 }));
        assert_eq!(parse(" 2 = -inf "), Ok(TokenBias { token: 2, bias: f32::NEG_INFINITY }));
        for bad in ["", "422", "=1", "422=", "-1=1", "4294967296=1", "422=much", "422:1"] {
            assert_eq!(parse(bad), Err(NotABias), "{bad:?}");
        }
    }
}

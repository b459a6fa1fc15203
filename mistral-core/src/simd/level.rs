//! The levels of this build, and the choice among them.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::neon;
use super::{Integers, Kernel, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// What a level's file gives: a token that proves that this CPU has the level's instructions.
pub(super) trait Token: Integers {
    /// The level's name.
    const NAME: &'static str;

    /// The level that kernels of floats run at.
    type Floats: Token;

    /// The level that kernels of integers run at.
    type Integers: Token;

    /// The level that kernels of pairs run at: plain Rust where there is no instruction for them.
    type Pairs: Token;

    /// Whether pairs are multiplied as fast as floats at least.
    const PAIRS: bool = false;

    /// Whether codes and inputs of 8 bits are multiplied faster than in 16.
    const OCTETS: bool = false;

    /// Whether this CPU has the level.
    fn is_present() -> bool;

    /// Runs a kernel with the level's instructions enabled.
    ///
    /// # Safety
    ///
    /// [`Token::is_present`] must be true.
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output;
}

/// A SIMD level that this CPU has.
///
/// ```
/// use mistral_core::simd::Level;
///
/// println!("computing with {}", Level::detect());
/// assert!(Level::available().any(|level| level == Level::SCALAR));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level(Kind);

/// Makes [`Kind`] and what depends on it from a list of tokens.
macro_rules! levels {
    ($($(#[$built:meta])* $kind:ident => $token:ty,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        enum Kind {
            $($(#[$built])* $kind,)*
        }

        impl Kind {
            const ALL: &[Self] = &[$($(#[$built])* Self::$kind,)*];

            fn is_present(self) -> bool {
                match self {
                    $($(#[$built])* Self::$kind => <$token>::is_present(),)*
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $($(#[$built])* Self::$kind => <$token>::NAME,)*
                }
            }

            fn has_pairs(self) -> bool {
                match self {
                    $($(#[$built])* Self::$kind => <$token>::PAIRS,)*
                }
            }

            fn has_octets(self) -> bool {
                match self {
                    $($(#[$built])* Self::$kind => <$token>::OCTETS,)*
                }
            }

            /// # Safety
            ///
            /// [`Kind::is_present`] must be true.
            #[inline]
            unsafe fn enter<K: Kernel>(self, kernel: K) -> K::Output {
                match self {
                    $(
                        $(#[$built])*
                        // SAFETY: a CPU with the level has those that its kinds of kernels run at.
                        Self::$kind => unsafe {
                            if K::PAIRS {
                                <$token as Token>::Pairs::enter(kernel)
                            } else if K::INTEGERS {
                                <$token as Token>::Integers::enter(kernel)
                            } else {
                                <$token as Token>::Floats::enter(kernel)
                            }
                        },
                    )*
                }
            }
        }
    };
}

// From the slowest to the fastest.
levels! {
    Scalar => scalar::Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2 => avx2::Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512 => avx512::Avx512<false, false>,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni => avx512::Avx512<true, false>,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16 => avx512::Avx512<false, true>,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon => neon::Neon,
}

impl Level {
    /// Plain Rust, on every CPU: the oracle.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest level of this CPU.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// Every level of this CPU, from the scalar one to the fastest.
    pub fn available() -> impl Iterator<Item = Self> {
        Kind::ALL.iter().filter(|kind| kind.is_present()).map(|kind| Self(*kind))
    }

    /// The level's name: `scalar`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16` (which has VNNI
    /// too) or `neon`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether [`Simd::dot_pairs`](super::Simd::dot_pairs) is an instruction, or the level is the oracle of those
    /// for which it is one.
    pub(crate) fn has_pairs(self) -> bool {
        self.0.has_pairs()
    }

    /// As [`has_pairs`](Self::has_pairs), for [`Integers::dot_octets`](super::Integers::dot_octets).
    pub(crate) fn has_octets(self) -> bool {
        self.0.has_octets()
    }

    /// Runs `kernel` at this level.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: only `available` makes levels other than the scalar one, and only of kinds that
        // are present on this CPU.
        unsafe { self.0.enter(kernel) }
    }
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

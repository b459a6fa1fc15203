//! The generator behind sampling: xoshiro256++, seeded through SplitMix64.
//!
//! It is written out here, and not taken from a crate, so that a seed gives the same tokens on
//! every platform and in every version: integer arithmetic only, pinned by known answers below.

/// xoshiro256++ 1.0 of David Blackman and Sebastiano Vigna (arXiv:1805.01407): 256 bits of state,
/// period 2^256 - 1. Not for cryptography.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xoshiro256 {
    state: [u64; 4],
}

impl Xoshiro256 {
    /// The state is the first four numbers of SplitMix64 from `seed`, as its authors advise: it is
    /// never all zero, and neighbouring seeds give unrelated streams.
    pub(crate) fn from_seed(mut seed: u64) -> Self {
        Self { state: std::array::from_fn(|_| split_mix(&mut seed)) }
    }

    /// 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number in `0.0..1.0`: the upper 53 bits, which are all that an f64 holds.
    pub(crate) fn next_f64(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * STEP
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): one step of a Weyl sequence, mixed.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // From state 1, 2, 3, 4: the vector that the authors' C code gives.
        let mut rng = Xoshiro256 { state: [1, 2, 3, 4] };
        let found: [u64; 10] = std::array::from_fn(|_| rng.next_u64());
        let published = [
            41943041,
            58720359,
            3588806011781223,
            3591011842654386,
            9228616714210784205,
            9973669472204895162,
            14011001112246962877,
            12406186145184390807,
            15849039046786891736,
            10450023813501588000,
        ];
        assert_eq!(found, published);
    }

    #[test]
    fn seeding_is_the_published_one() {
        let mut state = 1234567;
        let found: [u64; 5] = std::array::from_fn(|_| split_mix(&mut state));
        let published = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ];
        assert_eq!(found, published);
        assert_eq!(Xoshiro256::from_seed(1234567).state, published[..4]);
    }

    #[test]
    fn fractions_fill_zero_to_one_and_never_reach_it() {
        let mut rng = Xoshiro256::from_seed(7);
        let draws: Vec<f64> = (0..10_000).map(|_| rng.next_f64()).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        for tenth in 0..10 {
            let n = draws.iter().filter(|x| (**x * 10.0) as usize == tenth).count();
            assert!((850..1150).contains(&n), "{n} draws in tenth {tenth}");
        }
    }
}

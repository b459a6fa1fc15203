//! What this machine can do at most at the moment: figures to hold others against.
//!
//! All threads of the current pool take part. A figure is the best of some short rounds; on a
//! machine with neighbours it is worth little an hour later, so measure it in the run that it is
//! compared with.

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::bf16;

use crate::element::Factor;
use crate::memory::Memory;
use crate::quant::kernel::STEP;
use crate::quant::width::{Narrow, Wide, Width};
use crate::simd::{Integers, Kernel, Level, Line, sum_lanes};
use crate::threads;

/// Rounds of which the best counts.
const ROUNDS: usize = 10;

/// How long a round of arithmetic should take.
const ROUND: Duration = Duration::from_millis(30);

/// Streams that a thread reads at once, as in decoding.
const STREAMS: usize = 4;

/// Bytes a second, in GB, that all threads read from memory: each walks four streams far apart.
///
/// `bytes` should be several times the last cache. `None`: there is no memory for them.
pub fn read_gb_per_second(bytes: usize) -> Option<f64> {
    let mut memory = Memory::with_capacity(bytes)?;
    memory.grow(bytes).fill(1);
    let bytes = memory.as_ref();
    let seconds = shortest(|| {
        on_every_thread(&|i, n| {
            let part = bytes.len() / n;
            black_box(Level::detect().dispatch(ReadStreams { bytes: &bytes[i * part..][..part] }));
        });
    });
    Some(bytes.len() as f64 / seconds / 1e9)
}

/// Chains of sums in a round: what is in flight at once is half of them where registers are few.
const CHAINS: usize = 12;

/// Multiplications and additions a second, in GFLOP, of fused multiply-adds on f32 in registers.
pub fn f32_gflops() -> f64 {
    float_gflops::<f32>(Level::detect())
}

/// As [`f32_gflops`], of bf16 by bf16 in pairs; the same where the CPU does not multiply pairs.
pub fn bf16_gflops() -> f64 {
    let level = Level::detect();
    if level.has_pairs() { float_gflops::<[bf16; 2]>(level) } else { f32_gflops() }
}

fn float_gflops<F: Factor>(level: Level) -> f64 {
    struct Floats<F>(usize, std::marker::PhantomData<F>);
    impl<F: Factor> Floats<F> {
        #[inline(always)]
        fn chains<S: Integers, const N: usize>(self, simd: S) -> f32 {
            let mut chains = [simd.splat(black_box(1.0)); N];
            let (x, w) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
            for _ in 0..self.0 * (CHAINS / N) {
                for chain in &mut chains {
                    *chain = F::mul_add(simd, x, w, *chain);
                }
            }
            let mut sum = 0.0;
            for chain in chains {
                sum += sum_lanes(simd, chain);
            }
            sum
        }
    }
    impl<F: Factor> Kernel for Floats<F> {
        type Output = f32;

        const INTEGERS: bool = false;

        const PAIRS: bool = F::INPUTS == 2;

        #[inline(always)]
        fn run<S: Integers>(self, simd: S) -> f32 {
            if S::SUMS < CHAINS {
                self.chains::<S, { CHAINS / 2 }>(simd)
            } else {
                self.chains::<S, CHAINS>(simd)
            }
        }
    }
    arithmetic(2 * CHAINS * 16 * F::INPUTS, |rounds| {
        black_box(level.dispatch(Floats::<F>(rounds, std::marker::PhantomData)));
    })
}

/// Multiplications and additions a second, in GOP, of codes of 4 bits by inputs of 8 bits: rows of
/// inputs by sixteen outputs, all in the first-level cache.
pub fn int8_gops() -> f64 {
    integer_gops::<Narrow>()
}

/// As [`int8_gops`], of codes of 8 bits by inputs of 16 bits.
pub fn int16_gops() -> f64 {
    integer_gops::<Wide>()
}

fn integer_gops<W: Width>() -> f64 {
    /// Inputs whose products a narrow sum has room for.
    const INPUTS: usize = 32;
    /// Groups of inputs: with their rows they take two thirds of a cache of 32 kB.
    const GROUPS: usize = 12;
    struct Tile<W> {
        rounds: usize,
        width: std::marker::PhantomData<W>,
    }
    impl<W: Width> Tile<W> {
        #[inline(always)]
        fn rows<S: Integers, const N: usize>(self, simd: S) -> f32 {
            let steps = black_box(INPUTS / W::INPUTS);
            let codes = [Line([3; STEP]); 16 * GROUPS];
            let x = [[[5; 4]; N]; 16 * GROUPS];
            let mut totals = [simd.splat(0.0); N];
            for _ in 0..self.rounds * (CHAINS / N) {
                // Not known to be the same as before, or the products would be kept.
                let (codes, x) = (black_box(&codes), black_box(&x));
                let groups = codes.chunks_exact(steps).zip(x.chunks_exact(steps));
                for (codes, x) in groups.take(GROUPS) {
                    let mut sums = [W::start(simd, 0); N];
                    for (codes, x) in codes.iter().zip(x) {
                        let codes = W::load(simd, &codes.0);
                        for r in 0..N {
                            sums[r] = W::dot(simd, sums[r], codes, x[r]);
                        }
                    }
                    for r in 0..N {
                        totals[r] = simd.add(totals[r], W::total(simd, sums[r]));
                    }
                }
            }
            let mut sum = 0.0;
            for total in totals {
                sum += sum_lanes(simd, total);
            }
            sum
        }
    }
    impl<W: Width> Kernel for Tile<W> {
        type Output = f32;

        #[inline(always)]
        fn run<S: Integers>(self, simd: S) -> f32 {
            if S::SUMS < CHAINS {
                self.rows::<S, { CHAINS / 2 }>(simd)
            } else {
                self.rows::<S, CHAINS>(simd)
            }
        }
    }
    arithmetic(2 * CHAINS * 16 * INPUTS * GROUPS, |rounds| {
        let width = std::marker::PhantomData::<W>;
        black_box(Level::detect().dispatch(Tile { rounds, width }));
    })
}

/// Billions of operations a second, where `work(rounds)` does `each` of them in a round.
fn arithmetic(each: usize, work: impl Fn(usize) + Sync) -> f64 {
    let mut rounds = 1 << 10;
    loop {
        let start = Instant::now();
        work(rounds);
        let took = start.elapsed();
        if took > ROUND / 8 || rounds >= 1 << 28 {
            let scale = ROUND.as_secs_f64() / took.as_secs_f64().max(1e-9);
            rounds = ((rounds as f64 * scale) as usize).max(1);
            break;
        }
        rounds *= 4;
    }
    let seconds = shortest(|| on_every_thread(&|_, _| work(rounds)));
    each as f64 * rounds as f64 * threads::count() as f64 / seconds / 1e9
}

/// The shortest time of some rounds, in seconds.
fn shortest(mut round: impl FnMut()) -> f64 {
    let mut shortest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    shortest.max(1e-9)
}

/// Calls `work(i, n)` on each of the `n` threads.
fn on_every_thread(work: &(impl Fn(usize, usize) + Sync)) {
    fn split(first: usize, count: usize, n: usize, work: &(impl Fn(usize, usize) + Sync)) {
        if count <= 1 {
            return work(first, n);
        }
        let half = count / 2;
        threads::join(
            || split(first, half, n, work),
            || split(first + half, count - half, n, work),
        );
    }
    let n = threads::count();
    threads::enter(|| split(0, n, n, work));
}

/// Sums the lines of four streams far apart.
struct ReadStreams<'a> {
    bytes: &'a [u8],
}

impl Kernel for ReadStreams<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> f32 {
        let (lines, _) = self.bytes.as_chunks::<STEP>();
        let run = lines.len() / STREAMS;
        let mut sums = [simd.start_words(0); STREAMS];
        for i in 0..run {
            for (stream, sum) in sums.iter_mut().enumerate() {
                *sum =
                    simd.dot_words(*sum, simd.load_words(&lines[stream * run + i]), [1, 0, 1, 0]);
            }
        }
        let mut total = 0.0;
        for sum in sums {
            total += sum_lanes(simd, simd.total_words(sum));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ceiling_is_a_finite_number_above_zero() {
        let arithmetic = [f32_gflops, bf16_gflops, int8_gops, int16_gops].map(|measure| measure());
        for figure in arithmetic.into_iter().chain(read_gb_per_second(1 << 20)) {
            assert!(figure.is_finite() && figure > 0.0, "{figure}");
        }
        assert!(read_gb_per_second(1 << 20).is_some());
        assert_eq!(read_gb_per_second(usize::MAX / 2), None);
    }
}

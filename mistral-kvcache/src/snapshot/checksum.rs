//! CRC-64: what tells a damaged file from a whole one.

use std::io::{self, Write};

/// The polynomial of ECMA-182, lowest bit first, as in the xz format.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;

/// `TABLES[k][b]`: what byte `b` does to the sum when `k` bytes follow it.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut after = 1;
    while after < 8 {
        byte = 0;
        while byte < 256 {
            let sum: u64 = tables[after - 1][byte];
            tables[after][byte] = sum >> 8 ^ tables[0][(sum & 0xff) as usize];
            byte += 1;
        }
        after += 1;
    }
    tables
}

/// A running CRC-64. It finds every error within 64 consecutive bits, so every damaged byte.
#[derive(Debug, Clone)]
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    /// Takes in more bytes, eight at a time.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let mixed = (self.0 ^ u64::from_le_bytes(*eight)).to_le_bytes();
            self.0 = (mixed.iter().zip(TABLES.iter().rev()))
                .fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            let index = (self.0 ^ u64::from(*byte)) & 0xff;
            self.0 = self.0 >> 8 ^ TABLES[0][index as usize];
        }
    }

    pub(super) fn value(&self) -> u64 {
        !self.0
    }
}

/// Passes bytes on and adds them up.
pub(super) struct SummingWriter<W> {
    inner: W,
    sum: Checksum,
}

impl<W: Write> SummingWriter<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, sum: Checksum::new() }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.add(bytes);
        self.inner.write_all(bytes)
    }

    /// Writes the sum itself, and whatever waits to be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let sum = self.sum.value();
        self.inner.write_all(&sum.to_le_bytes())?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_catalogue() {
        // CRC-64/XZ in the catalogue of parametrised CRC algorithms.
        let mut sum = Checksum::new();
        sum.add(b"123456789");
        assert_eq!(sum.value(), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn any_cut_gives_the_same_sum() {
        let bytes: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37)).collect();
        let mut whole = Checksum::new();
        whole.add(&bytes);
        for cut in 0..=bytes.len() {
            let mut sum = Checksum::new();
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.value(), whole.value());
        }
    }
}

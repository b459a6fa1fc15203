//! The memory that is free on this machine.

use std::fs;

/// Bytes that a program can take without others being swapped out, where Linux tells; else `None`.
pub(crate) fn available() -> Option<u64> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn mem_available_is_read_in_bytes() {
        let meminfo = "MemTotal:        8000000 kB\nMemAvailable:    1234567 kB\nBuffers: 1 kB\n";
        assert_eq!(super::parse(meminfo), Some(1_234_567 * 1024));
        assert_eq!(super::parse("MemTotal: 8000000 kB\n"), None);
    }
}

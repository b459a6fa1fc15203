//! The memory that is free on this machine, and what this process took of it.

use std::fs;

/// Bytes that a program can take without others being swapped out, where Linux tells; else `None`.
pub(crate) fn available() -> Option<u64> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The most bytes that this process had in memory at once, where Linux tells; else `None`.
pub(crate) fn peak() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Forgets earlier peaks, where Linux lets us; else [`peak`] stays that of the whole process.
pub(crate) fn reset_peak() {
    // `man 5 proc_pid_clear_refs`: 5 sets the peak to what is in memory now.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The bytes in the line that begins with `name`.
fn parse(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn mem_available_is_read_in_bytes() {
        let meminfo = "MemTotal:        8000000 kB\nMemAvailable:    1234567 kB\nBuffers: 1 kB\n";
        assert_eq!(super::parse(meminfo, "MemAvailable:"), Some(1_234_567 * 1024));
        assert_eq!(super::parse("MemTotal: 8000000 kB\n", "MemAvailable:"), None);
    }
}

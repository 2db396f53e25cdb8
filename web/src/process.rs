//! What this process uses, as /proc tells.

use std::fs::read_to_string;

/// What the process has used and uses. What cannot be read is 0.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usage {
    /// Processor seconds, user and system.
    pub cpu_s: f64,
    /// Resident memory, bytes.
    pub resident_bytes: f64,
    /// Address space, bytes.
    pub virtual_bytes: f64,
    /// Open file descriptors.
    pub open_fds: f64,
    /// So many there may be.
    pub max_fds: f64,
}

impl Usage {
    /// Now.
    pub fn now() -> Usage {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        Usage {
            cpu_s: cpu_s(&read_to_string("/proc/self/stat").unwrap_or_default()),
            resident_bytes: bytes(&status, "VmRSS:"),
            virtual_bytes: bytes(&status, "VmSize:"),
            open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
            max_fds: max_fds(&read_to_string("/proc/self/limits").unwrap_or_default()),
        }
    }
}

/// proc(5): the 14th and 15th field. The command's name may hold spaces and parentheses: fields are
/// counted from behind it, where the third begins.
fn cpu_s(stat: &str) -> f64 {
    /// USER_HZ is 100 on every Linux that Rust runs on.
    const TICKS_PER_S: f64 = 100.0;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(14 - 3).take(2);
    ticks.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
}

fn bytes(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kb = line.and_then(|it| it.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kb.unwrap_or_default() * 1_024.0
}

fn max_fds(limits: &str) -> f64 {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|it| it.split_whitespace().next()?.parse().ok());
    soft.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now();
        assert!(usage.resident_bytes > 1e6, "{usage:?}");
        assert!(usage.virtual_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(
            usage.max_fds >= usage.open_fds && usage.open_fds > 2.0,
            "{usage:?}"
        );
    }

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let stat = "7 (a) (b c) S 1 1 1 0 -1 4 0 0 0 0 150 50 9 9 20 0";
        assert_eq!(cpu_s(stat), 2.0);
    }
}

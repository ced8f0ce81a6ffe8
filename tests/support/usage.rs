//! What a process uses: memory and processor time, as the kernel counts them.

use std::time::Duration;

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process is there")
}

/// Forgets the highest memory so far.
pub fn reset_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it is a process of ours");
}

/// The memory that it has now, and the highest that it had, in MiB.
pub fn memory(pid: u32) -> (u64, u64) {
    let status = read(pid, "status");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel counts it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// The processor time of all its threads, those that ended included.
pub fn processor(pid: u32) -> Duration {
    // The name stands in parentheses and may hold anything; user and system time are the 12th and 13th field after it.
    let stat = read(pid, "stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a line").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    // The kernel tells in hundredths of a second, on every machine.
    Duration::from_millis(ticks * 10)
}

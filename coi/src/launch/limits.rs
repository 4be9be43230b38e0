//! `[limits]` in the words of Incus.
//!
//! Incus takes every limit, and passes those over in silence that the machine's cgroups cannot enforce. So it is looked
//! inside whether the controller is there.

use std::collections::BTreeMap;

use crate::config::{Limits, MemoryEnforce};

/// The keys of an instance.
pub(super) fn config(limits: &Limits) -> BTreeMap<String, String> {
    let number = |number: i64| number.to_string();
    let enforce = limits.memory_enforce.map(|enforce| match enforce {
        MemoryEnforce::Soft => "soft".to_owned(),
        MemoryEnforce::Hard => "hard".to_owned(),
    });
    set([
        ("limits.cpu", limits.cpu_count.as_ref().map(|count| count.0.clone())),
        ("limits.cpu.allowance", limits.cpu_allowance.as_ref().map(|share| share.0.clone())),
        ("limits.cpu.priority", limits.cpu_priority.map(|priority| number(priority.0))),
        ("limits.memory", limits.memory.as_ref().map(|size| size.0.clone())),
        ("limits.memory.enforce", enforce),
        ("limits.memory.swap", limits.memory_swap.as_ref().map(|swap| swap.0.clone())),
        ("limits.disk.priority", limits.disk_priority.map(|priority| number(priority.0))),
        ("limits.processes", limits.max_processes.map(|count| number(count.0))),
    ])
}

/// The keys of its disk.
pub(super) fn disk(limits: &Limits) -> BTreeMap<String, String> {
    // Incus means by the second anyway.
    let rate = |rate: &crate::config::Rate| rate.0.trim_end_matches("/s").to_owned();
    set([
        ("limits.read", limits.disk_read.as_ref().map(rate)),
        ("limits.write", limits.disk_write.as_ref().map(rate)),
        ("limits.max", limits.disk_max.as_ref().map(rate)),
        ("size", limits.disk_size.as_ref().map(|size| size.0.clone())),
    ])
}

/// The limits of processor, memory and processes that are set, each with the file by which a cgroup enforces it.
pub(super) fn enforced_by(limits: &Limits) -> Vec<(&'static str, &'static str)> {
    let all = [
        (limits.cpu_count.is_some(), "limits.cpu.count", "cpuset.cpus"),
        (limits.cpu_allowance.is_some(), "limits.cpu.allowance", "cpu.max"),
        (limits.memory.is_some(), "limits.memory.limit", "memory.max"),
        (limits.max_processes.is_some(), "limits.runtime.max_processes", "pids.max"),
    ];
    all.into_iter().filter_map(|(is_set, name, file)| is_set.then_some((name, file))).collect()
}

fn set<const N: usize>(keys: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CpuCount, DiskSize, MemoryLimit, Number, Rate, Swap};

    #[test]
    fn in_the_words_of_incus() {
        let none = crate::config::Config::default().limits;
        assert!(config(&none).is_empty() && disk(&none).is_empty() && enforced_by(&none).is_empty());
        let limits = Limits {
            cpu_count: Some(CpuCount("0-3".into())),
            memory: Some(MemoryLimit("2GiB".into())),
            memory_enforce: Some(MemoryEnforce::Soft),
            memory_swap: Some(Swap("false".into())),
            disk_read: Some(Rate("10MiB/s".into())),
            disk_write: Some(Rate("900iops".into())),
            disk_max: Some(Rate("5MB/s".into())),
            disk_size: Some(DiskSize("9GiB".into())),
            disk_priority: Some(Number(3)),
            max_processes: Some(Number(900)),
            ..none
        };
        insta::assert_debug_snapshot!((config(&limits), disk(&limits), enforced_by(&limits)));
    }
}

//! What depends on the process as a whole: its namespaces, its capabilities, its memory. Each such
//! test runs this executable again, in a process made for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use _scan::discovery::ebpf::{Candidates, CommPrefix, Unavailable, probe};

use crate::puppet::{Puppet, Stage, here};

/// Runs one of the tests below, through another program if one is given; returns what it printed.
fn run_again(through: &[&str], test: &str, procfs: &Path) -> String {
    let own = env::current_exe().unwrap();
    let mut words = through.iter().map(|word| PathBuf::from(*word)).collect::<Vec<_>>();
    words.extend([own, "--ignored".into(), "--exact".into(), "--nocapture".into()]);
    words.push(format!("elsewhere::{test}").into());
    let output = Command::new(&words[0]).args(&words[1..]).env("PROCFS", procfs).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complaint}");
    said
}

fn load(drop_privileges: bool) -> Result<Candidates, Unavailable> {
    let procfs = env::var("PROCFS").unwrap_or_else(|_| "/proc".to_owned());
    let nobody = CommPrefix::new(b"nobody's-name", true);
    Candidates::load(Path::new(&procfs), &[nobody], 16, drop_privileges)
}

/// The calling thread's capability sets and memory, from the kernel.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let value = line.split_whitespace().nth(1).unwrap();
    if field.starts_with("Cap") { u64::from_str_radix(value, 16).unwrap() } else { value.parse().unwrap() }
}

const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

#[test]
#[ignore = "run by others in a process of its own"]
fn says_how_loading_went() {
    match load(false) {
        Ok(_) => println!("loaded"),
        Err(why) => println!("{why}"),
    }
}

#[test]
#[ignore = "run by others in a process of its own"]
fn works_on_without_privileges() {
    let mut stage = Stage::load(16, true);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(set), 0, "{set}");
    }
    let puppet = Puppet::named(&stage.inside());
    assert!(stage.holds(puppet.pid()));
    assert_eq!(stage.candidates.misses().unwrap(), 0);
    let outside = CommPrefix::new(stage.outside().as_bytes(), false);
    stage.candidates.set_prefixes(&[outside]).unwrap();
    let puppet = Puppet::named(&stage.outside());
    assert!(stage.holds(puppet.pid()));
    assert!(matches!(probe(Path::new("/proc")), Err(Unavailable::NotPermitted(_))));
}

#[test]
#[ignore = "run by others in a process of its own"]
fn says_how_much_memory_loading_took() {
    let before = status("RssAnon");
    let _candidates = load(false).unwrap();
    println!("grew by {} kB", status("RssAnon") - before);
}

#[test]
fn the_two_capabilities_are_enough_and_none_is_left_after_loading() {
    if here() {
        // Every set holds them, as in a unit with AmbientCapabilities.
        let sets = ["bounding-set", "inh-caps", "ambient-caps"].map(|set| format!("--{set}=-all,+bpf,+perfmon"));
        let only = ["setpriv", &sets[0], &sets[1], &sets[2]];
        run_again(&only, "works_on_without_privileges", Path::new("/proc"));
    }
}

#[test]
fn either_capability_alone_is_refused_by_the_name_of_the_other() {
    for (given, lacking) in [("bpf", "CAP_PERFMON"), ("perfmon", "CAP_BPF"), ("kill", "CAP_BPF")] {
        if here() {
            let given = format!("--bounding-set=-all,+{given}");
            let through = ["setpriv", &given];
            let said = run_again(&through, "says_how_loading_went", Path::new("/proc"));
            assert!(said.contains(&format!("no {lacking}")), "{said}");
        }
    }
}

#[test]
fn of_all_capabilities_only_the_two_are_given_up_loaded_or_not() {
    if here() {
        let thread = |max_entries| {
            let before = status("CapEff");
            let nobody = CommPrefix::new(b"nobody's-name", true);
            let loaded = Candidates::load(Path::new("/proc"), &[nobody], max_entries, true);
            assert_eq!(status("CapEff"), before & !(CAP_BPF | CAP_PERFMON));
            assert_eq!(status("CapPrm") & (CAP_BPF | CAP_PERFMON), 0);
            loaded.is_ok()
        };
        // A map of no entries is one that the kernel does not make.
        for (max_entries, loads) in [(16, true), (0, false)] {
            let loaded = std::thread::spawn(move || thread(max_entries)).join().unwrap();
            assert_eq!(loaded, loads);
        }
    }
}

#[test]
fn the_kernels_types_do_not_stay_in_memory() {
    if here() {
        // With one arena the test's thread has the heap that a main thread has.
        let main_heap = ["env", "MALLOC_ARENA_MAX=1"];
        let said = run_again(&main_heap, "says_how_much_memory_loading_took", Path::new("/proc"));
        let kb = said.split_once("grew by ").unwrap().1.split_whitespace().next().unwrap();
        assert!(kb.parse::<u64>().unwrap() < 1500, "{kb} kB");
    }
}

/// In a pid namespace of its own, numbers are not those that the kernel programs see.
#[test]
fn the_procfs_of_another_pid_namespace_is_refused() {
    if here() {
        let inner = ["unshare", "--pid", "--fork", "--mount-proc"];
        let said = run_again(&inner, "says_how_loading_went", Path::new("/proc"));
        assert!(said.contains("initial pid namespace"), "{said}");
    }
}

/// Here /proc is the outer namespace's, and the process has yet another number in its own.
#[test]
fn the_procfs_of_a_namespace_between_is_refused_by_the_programs_word() {
    if here() {
        let inner = ["unshare", "--pid", "--fork", "--mount-proc", "unshare", "--pid", "--fork"];
        let said = run_again(&inner, "says_how_loading_went", Path::new("/proc"));
        assert!(said.contains("initial pid namespace"), "{said}");
    }
}

/// As in a container that is given the host's /proc under another name.
#[test]
fn the_hosts_procfs_serves_in_another_pid_namespace() {
    if here() {
        let inner = ["unshare", "--pid", "--fork"];
        let said = run_again(&inner, "says_how_loading_went", Path::new("/proc"));
        assert!(said.contains("loaded"), "{said}");
    }
}

#[test]
fn a_directory_that_is_no_procfs_is_refused() {
    if here() {
        let said = run_again(&[], "says_how_loading_went", &env::temp_dir());
        assert!(said.contains("initial pid namespace"), "{said}");
    }
}

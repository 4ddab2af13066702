//! The kernel's candidates against real processes: whatever a process does, the map holds it
//! exactly while its leader's comm passes the filter.
//!
//! Needs root, or `CAP_BPF` and `CAP_PERFMON`; some tests need unshare(1) and setpriv(1) as well.

mod elsewhere;
mod puppet;

use std::fs;
use std::path::Path;

use _scan::discovery::ebpf::{Candidates, CommPrefix, MAX_PATTERNS, Unavailable};
use puppet::{Puppet, Stage};

#[test]
fn a_rename_into_the_filter_puts_and_one_out_of_it_forgets() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::new();
    assert!(!stage.holds(puppet.pid()));
    puppet.order(&format!("name('{}')", stage.inside()));
    assert!(stage.holds(puppet.pid()));
    puppet.order(&format!("name('{}')", stage.outside()));
    assert!(!stage.holds(puppet.pid()));
}

#[test]
fn a_rename_by_another_thread_counts_for_the_leader() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::new();
    puppet.order(&format!("in_thread(lambda: name_leader('{}'))", stage.inside()));
    assert!(stage.holds(puppet.pid()));
    puppet.order(&format!("in_thread(lambda: name_leader('{}'))", stage.outside()));
    assert!(!stage.holds(puppet.pid()));
}

#[test]
fn the_names_of_other_threads_do_not_count() {
    let Some(mut stage) = Stage::new() else { return };
    let mut plain = Puppet::new();
    plain.order(&format!("in_thread(lambda: name('{}'))", stage.inside()));
    let mut candidate = Puppet::named(&stage.inside());
    candidate.order(&format!("in_thread(lambda: name('{}'))", stage.outside()));
    assert!(!stage.holds(plain.pid()));
    assert!(stage.holds(candidate.pid()));
    assert_eq!(stage.all().len(), 1, "threads that inherit a name have no entry of their own");
}

#[test]
fn a_child_inherits_the_name_of_the_thread_that_forked_it() {
    let Some(mut stage) = Stage::new() else { return };
    let mut plain = Puppet::new();
    let in_thread = format!("in_thread(lambda: name('{}'), fork)", stage.inside());
    let child = plain.make(&in_thread);
    assert!(stage.holds(child) && !stage.holds(plain.pid()));

    let mut candidate = Puppet::named(&stage.inside());
    let child = candidate.make("fork()");
    assert!(stage.holds(child));
    let in_thread = format!("in_thread(lambda: name('{}'), fork)", stage.outside());
    let child = candidate.make(&in_thread);
    assert!(!stage.holds(child));
}

#[test]
fn every_way_to_make_a_process_is_seen() {
    let Some(mut stage) = Stage::new() else { return };
    let (inside, outside) = (stage.inside(), stage.outside());
    let (into, out_of) = (stage.program(&inside), stage.program(&outside));
    let mut candidate = Puppet::named(&inside);
    let mut plain = Puppet::new();
    for copy in ["fork()", "clone3()"] {
        let child = candidate.make(copy);
        assert!(stage.holds(child), "{copy}");
        candidate.order(&format!("end({child})"));
        assert!(!stage.holds(child), "{copy}");
        let child = plain.make(copy);
        assert!(!stage.holds(child), "{copy}");
    }
    for run in ["vfork", "spawn"] {
        // The parent of a vfork runs on a little before the child has its new name.
        let child = plain.make(&format!("{run}('{}')", into.display()));
        assert!(stage.soon(|stage| stage.holds(child)), "{run}");
        plain.order(&format!("end({child})"));
        assert!(!stage.holds(child), "{run}");
        let child = candidate.make(&format!("{run}('{}')", out_of.display()));
        assert!(stage.soon(|stage| !stage.holds(child)), "{run}");
    }
}

#[test]
fn an_exec_into_the_filter_puts_and_one_out_of_it_forgets() {
    let Some(mut stage) = Stage::new() else { return };
    let (inside, outside) = (stage.inside(), stage.outside());
    let mut joins = Puppet::new();
    joins.exec("{}", &stage.program(&inside));
    assert!(stage.holds(joins.pid()));
    let mut leaves = Puppet::named(&inside);
    leaves.exec("{}", &stage.program(&outside));
    assert!(!stage.holds(leaves.pid()));
}

#[test]
fn an_exec_of_the_same_name_keeps_the_process_and_renews_its_naming() {
    let Some(mut stage) = Stage::new() else { return };
    let inside = stage.inside();
    let mut puppet = Puppet::named(&inside);
    let before = stage.entry(puppet.pid()).unwrap();
    let generation = stage.generation();
    puppet.exec("{}", &stage.program(&inside));
    assert!(stage.entry(puppet.pid()).unwrap().named_ns > before.named_ns);
    assert_eq!(stage.generation(), generation + 1);
}

#[test]
fn an_exec_by_another_thread_makes_the_process_what_it_execs() {
    let Some(mut stage) = Stage::new() else { return };
    let (inside, outside) = (stage.inside(), stage.outside());
    let as_thread = |name| format!("in_thread(lambda: name('{name}'), lambda: {{}})");

    let mut leaves = Puppet::named(&inside);
    leaves.exec(&as_thread(&inside), &stage.program(&outside));
    assert!(!stage.holds(leaves.pid()));

    let mut joins = Puppet::new();
    joins.exec(&as_thread(&outside), &stage.program(&inside));
    assert!(stage.holds(joins.pid()));

    let mut stays = Puppet::named(&inside);
    let before = stage.entry(stays.pid()).unwrap();
    stays.exec(&as_thread(&outside), &stage.program(&inside));
    assert!(stage.entry(stays.pid()).unwrap().named_ns > before.named_ns);
}

#[test]
fn a_process_stays_until_its_last_thread_has_left() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::named(&stage.inside());
    let pid = puppet.pid();
    puppet.send("leave_threads()");
    assert_eq!(puppet.answer(), "gone");
    assert!(stage.holds(pid));
    puppet.end();
    assert!(!stage.holds(pid));
}

#[test]
fn a_leader_renamed_after_its_exit_leaves_nothing_behind() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::new();
    let pid = puppet.pid();
    puppet.send("leave_threads()");
    assert_eq!(puppet.answer(), "gone");
    puppet.order(&format!("name_leader('{}')", stage.inside()));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim(), stage.inside());
    assert!(stage.holds(pid));
    puppet.end();
    assert!(!stage.holds(pid));
}

#[test]
fn an_exit_forgets_and_a_reused_number_is_another_process() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::named(&stage.inside());
    let pid = puppet.make("clone3()");
    let first = stage.entry(pid).unwrap();
    puppet.order(&format!("end({pid})"));
    assert!(!stage.holds(pid));
    assert_eq!(puppet.make(&format!("clone3({pid})")), pid);
    let second = stage.entry(pid).unwrap();
    assert!(second.named_ns > first.named_ns);
}

#[test]
fn a_full_map_is_noticed_and_keeps_what_it_holds() {
    let Some(mut stage) = Stage::with_room_for(4) else { return };
    let mut puppet = Puppet::named(&stage.inside());
    assert_eq!(stage.lost(), 0);
    let children: Vec<u32> = (0..5).map(|_| puppet.make("fork()")).collect();
    assert_eq!(stage.all().len(), 4);
    assert_eq!(stage.lost(), 2);

    // Who is in it can still be renamed and go, and makes room.
    puppet.order(&format!("name('{}')", stage.inside()));
    assert_eq!(stage.lost(), 2);
    let held = children.into_iter().find(|&child| stage.holds(child)).unwrap();
    puppet.order(&format!("end({held})"));
    let late = puppet.make("fork()");
    assert!(stage.holds(late));
    assert_eq!(stage.lost(), 2);
}

#[test]
fn the_generation_stands_while_the_map_does() {
    let Some(stage) = Stage::new() else { return };
    let mut plain = Puppet::new();
    let _candidate = Puppet::named(&stage.inside());
    let generation = stage.generation();
    let child = plain.make("fork()");
    plain.order(&format!("name('{}')", stage.outside()));
    plain.order(&format!("end({child})"));
    assert_eq!(stage.generation(), generation);
    plain.order(&format!("name('{}')", stage.inside()));
    assert_eq!(stage.generation(), generation + 1);
    plain.end();
    assert_eq!(stage.generation(), generation + 2);
    assert_eq!(stage.candidates.misses().unwrap(), 0);
}

#[test]
fn an_exact_name_passes_nothing_longer() {
    let Some(mut stage) = Stage::new() else { return };
    let name = stage.inside();
    stage.candidates.set_prefixes(&[CommPrefix::new(name.as_bytes(), true)]).unwrap();
    let longer = Puppet::named(&format!("{name}x"));
    assert!(!stage.holds(longer.pid()));
    let puppet = Puppet::named(&name);
    assert!(stage.holds(puppet.pid()));
}

#[test]
fn a_name_longer_than_a_comm_is_compared_as_far_as_comms_go() {
    let Some(mut stage) = Stage::new() else { return };
    let cut = format!("{:z<15}", stage.inside());
    let long = format!("{cut}-and-more");
    stage.candidates.set_prefixes(&[CommPrefix::new(cut.as_bytes(), true)]).unwrap();
    let mut puppet = Puppet::new();
    puppet.exec("{}", &stage.program(&long));
    assert!(stage.holds(puppet.pid()));
    stage.candidates.set_prefixes(&[CommPrefix::new(long.as_bytes(), true)]).unwrap();
    let puppet = Puppet::named(&cut);
    assert!(stage.holds(puppet.pid()));
}

#[test]
fn the_filter_changes_at_run_time() {
    let Some(mut stage) = Stage::new() else { return };
    let (inside, outside) = (stage.inside(), stage.outside());
    let others: Vec<_> = (1..MAX_PATTERNS).map(|n| format!("-{n}{inside}")).collect();
    let mut prefixes: Vec<_> = others.iter().map(|name| CommPrefix::new(name.as_bytes(), false)).collect();
    prefixes.push(CommPrefix::new(outside.as_bytes(), false));
    stage.candidates.set_prefixes(&prefixes).unwrap();
    let now_outside = Puppet::named(&inside);
    let first = Puppet::named(&others[0]);
    let last = Puppet::named(&outside);
    assert!(!stage.holds(now_outside.pid()));
    assert!(stage.holds(first.pid()) && stage.holds(last.pid()));

    prefixes.push(CommPrefix::new(inside.as_bytes(), false));
    assert!(stage.candidates.set_prefixes(&prefixes).is_err(), "one more than there is room for");
    assert!(stage.candidates.set_prefixes(&[]).is_err());
    let after_refusal = Puppet::named(&outside);
    assert!(stage.holds(after_refusal.pid()));
}

#[test]
fn reading_takes_many_batches_when_there_are_many() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppet = Puppet::named(&stage.inside());
    puppet.order("[fork() for _ in range(1100)] and None");
    let found = stage.all();
    assert_eq!(found.len(), 1101);
    assert!(found.windows(2).all(|pair| pair[0].tgid < pair[1].tgid), "no number twice");
}

#[test]
fn after_thousands_of_forks_and_renames_none_is_missing_and_none_extra() {
    let Some(mut stage) = Stage::new() else { return };
    let mut puppets = [Puppet::new(), Puppet::new(), Puppet::new()];
    for _ in 0..4 {
        for puppet in &mut puppets {
            puppet.send(&format!("churn(250, '{}', '{}')", stage.inside(), stage.outside()));
        }
        for puppet in &mut puppets {
            let staying: usize = puppet.answer().parse().unwrap();
            assert!(staying < 250);
        }
        let map: Vec<u32> = stage.all().iter().map(|candidate| candidate.tgid).collect();
        assert_eq!(map, processes_named(&stage.inside()));
    }
    assert_eq!(stage.lost(), 0);
    assert_eq!(stage.candidates.misses().unwrap(), 0);
}

/// A slow look at all of /proc. Who has exited and is not reaped is no process any more.
fn processes_named(comm: &str) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(&format!("({comm})")) && !stat.contains(") Z ")
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn patterns_that_name_nothing_are_too_broad() {
    let load = |prefixes: &[CommPrefix]| Candidates::load(Path::new("/proc"), prefixes, 16, false).err().unwrap();
    let everything = CommPrefix::new(b"", false);
    let ruby = CommPrefix::new(b"ruby", false);
    assert!(matches!(load(&[ruby, everything]), Unavailable::TooBroad));
    assert!(matches!(load(&[]), Unavailable::TooBroad));
}

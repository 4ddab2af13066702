//! BOUNDARY. What a scan found, as Python sees it: frozen copies, field by field. It must never compute one.

use pyo3::prelude::*;

use crate::snapshot;

#[pyclass(frozen, get_all, module = "agent._scan")]
pub(super) struct Counts {
    workers: u32,
    readable: u32,
    busy_processes: u32,
    busy_threads: u64,
    total_threads: u64,
    untitled: u32,
    cores_milli: u64,
    others_milli: u64,
    stopping: u32,
    copies: u32,
    unparsable: u32,
    quarantined: u32,
    unread: u32,
    oldest_ms: u64,
}

impl From<snapshot::Counts> for Counts {
    fn from(c: snapshot::Counts) -> Self {
        Self {
            workers: c.workers,
            readable: c.readable,
            busy_processes: c.busy_processes,
            busy_threads: c.busy_threads,
            total_threads: c.total_threads,
            untitled: c.untitled,
            cores_milli: c.cores_milli,
            others_milli: c.others_milli,
            stopping: c.stopping,
            copies: c.copies,
            unparsable: c.unparsable,
            quarantined: c.quarantined,
            unread: c.unread,
            oldest_ms: c.oldest_ms,
        }
    }
}

#[pyclass(frozen, get_all, module = "agent._scan")]
pub(super) struct Snapshot {
    visible: bool,
    whole: bool,
    pools: Vec<Py<Counts>>,
    discovery: &'static str,
    processes: u32,
    rechecked: u32,
    vanished: u32,
    unreadable: u32,
    cpu_untold: u32,
    began_ns: u64,
    took_ns: u64,
    cost_ns: u64,
}

impl Snapshot {
    pub(super) fn new(py: Python<'_>, s: snapshot::Snapshot) -> PyResult<Self> {
        let pools = s.pools.into_iter().map(|c| Py::new(py, Counts::from(c))).collect::<PyResult<_>>()?;
        Ok(Self {
            visible: s.visible,
            whole: s.whole,
            pools,
            discovery: s.discovery,
            processes: s.processes,
            rechecked: s.rechecked,
            vanished: s.vanished,
            unreadable: s.unreadable,
            cpu_untold: s.cpu_untold,
            began_ns: s.began_ns,
            took_ns: s.took_ns,
            cost_ns: s.cost_ns,
        })
    }
}

#[pyclass(frozen, get_all, module = "agent._scan")]
pub(super) struct Worker {
    pub(super) pid: u32,
    pub(super) uid: Option<u32>,
    pub(super) title: Vec<u8>,
    pub(super) readings: Vec<Option<Py<PyAny>>>,
    pub(super) copy: bool,
    pub(super) quarantined: bool,
    pub(super) age_ms: u64,
    pub(super) works_for_ms: u64,
    pub(super) cores_milli: Option<u64>,
}

//! BOUNDARY. The only file that names pyo3: arguments in, one call, integers out.
//!
//! No logic here. The GIL is released around everything that can take time. The manual is
//! `python/agent/_scan.pyi`.
#![allow(clippy::needless_pass_by_value, reason = "what pyo3 takes out of Python is owned")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::answer::{self, End, Replies};
use crate::clock;
use crate::cpu_time::Way;
use crate::discovery;
use crate::error::Error;
use crate::hidden;
use crate::net::Net;
use crate::procfs::Procfs;
use crate::read_task::Context;
use crate::scanner;
use crate::selector::{self, Spec};
use crate::snapshot;
use crate::title::Reading;
use crate::tracker::Tracker;

/// Each selector is one bit of a word.
const SELECTORS_MAX: usize = 32;

impl From<Error> for PyErr {
    fn from(e: Error) -> Self {
        match e {
            Error::Root(text) => PyOSError::new_err(text),
            other => PyValueError::new_err(other.to_string()),
        }
    }
}

#[pyclass(frozen, module = "agent._scan")]
struct Selector(selector::Selector);

#[pymethods]
impl Selector {
    #[new]
    #[pyo3(signature = (
        preset, *, comm=vec![], users=vec![], cgroups=vec![], pattern=String::new(), busy_states=vec![],
        now=false, cores=false, others=vec![],
    ))]
    #[allow(clippy::too_many_arguments, reason = "each is a keyword of Python's")]
    #[allow(clippy::fn_params_excessive_bools, reason = "likewise")]
    fn new(
        preset: String,
        comm: Vec<String>,
        users: Vec<u32>,
        cgroups: Vec<String>,
        pattern: String,
        busy_states: Vec<String>,
        now: bool,
        cores: bool,
        others: Vec<String>,
    ) -> PyResult<Self> {
        let spec = Spec { preset, comm, users, cgroups, pattern, busy_states, now, cores, others };
        Ok(Self(selector::Selector::new(&spec)?))
    }

    #[getter]
    fn comm(&self) -> Vec<String> {
        self.0.comm.texts().to_vec()
    }

    #[getter]
    fn has_a_heartbeat(&self) -> bool {
        self.0.grammar.has_a_heartbeat()
    }

    /// What this selector reads in a title: `(busy, total, stopping)`, `"unparsable"`, or None.
    fn read<'py>(&self, py: Python<'py>, cmdline: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
        reading(py, self.0.grammar.read(cmdline))
    }
}

fn reading(py: Python<'_>, reading: Reading) -> PyResult<Option<Bound<'_, PyAny>>> {
    Ok(match reading {
        Reading::No => None,
        Reading::Unparsable => Some("unparsable".into_pyobject(py)?.into_any()),
        Reading::Worker { busy, total, stopping } => Some((busy, total, stopping).into_pyobject(py)?.into_any()),
    })
}

#[pyclass(frozen, get_all, module = "agent._scan")]
struct Counts {
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
struct Snapshot {
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
    fn new(py: Python<'_>, s: snapshot::Snapshot) -> PyResult<Self> {
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
struct Worker {
    pid: u32,
    uid: Option<u32>,
    title: Vec<u8>,
    readings: Vec<Option<Py<PyAny>>>,
    copy: bool,
    quarantined: bool,
    age_ms: u64,
    works_for_ms: u64,
    cores_milli: Option<u64>,
}

#[pyclass(frozen, module = "agent._scan")]
struct Scanner {
    scanner: scanner::Scanner,
    refused: Vec<String>,
}

#[pymethods]
impl Scanner {
    #[new]
    #[pyo3(signature = (procfs, discovery, selectors, *, kept_max, detail=false, former=None, drop_privileges=false))]
    fn new(
        procfs: &str,
        discovery: &str,
        selectors: Vec<PyRef<'_, Selector>>,
        kept_max: usize,
        detail: bool,
        former: Option<PyRef<'_, Self>>,
        drop_privileges: bool,
    ) -> PyResult<Self> {
        if selectors.len() > SELECTORS_MAX {
            return Err(Error::TooManySelectors(selectors.len()).into());
        }
        let selectors: Vec<_> = selectors.iter().map(|s| s.0.clone()).collect();
        // Everything that can fail comes before the BPF programs, which a former scanner shares, change.
        let procfs = Procfs::open(Path::new(procfs))?;
        let event = scanner::new_event()?;
        let former = former.as_ref().map(|f| &f.scanner);
        let candidates = former.and_then(scanner::Scanner::shared_candidates);
        let choice = discovery::choose(discovery, &procfs, &selectors, candidates, drop_privileges);
        let way = Way::choose(&procfs);
        let context = Arc::new(Context { selectors, detail, way });
        scanner::reserve_fds(kept_max);
        let tracker = Tracker::new(context, procfs, choice.discovery, kept_max);
        Ok(Self { scanner: scanner::Scanner::new(tracker, event, former), refused: choice.refused })
    }

    #[getter]
    fn refused(&self) -> Vec<String> {
        self.refused.clone()
    }

    #[getter]
    fn discovery(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.scanner.discovery())
    }

    #[getter]
    fn event_fd(&self) -> RawFd {
        self.scanner.event_fd()
    }

    fn start(&self, py: Python<'_>) {
        py.detach(|| self.scanner.start());
    }

    fn check_deadline(&self, py: Python<'_>) -> bool {
        py.detach(|| self.scanner.check_deadline())
    }

    fn take(&self, py: Python<'_>) -> PyResult<Option<Snapshot>> {
        let taken = py.detach(|| self.scanner.take());
        taken.transpose().map_err(PyRuntimeError::new_err)?.map(|s| Snapshot::new(py, s)).transpose()
    }

    #[pyo3(signature = (give_up_s=10.0))]
    fn scan(&self, py: Python<'_>, give_up_s: f64) -> PyResult<Snapshot> {
        let give_up = Duration::try_from_secs_f64(give_up_s).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let scanned = py.detach(|| self.scanner.scan(give_up));
        Snapshot::new(py, scanned.map_err(PyRuntimeError::new_err)?)
    }

    fn workers(&self, py: Python<'_>) -> PyResult<Vec<Worker>> {
        let workers = py.detach(|| self.scanner.workers());
        let convert = |w: crate::tracker::WorkerInfo| {
            let readings =
                w.readings.iter().map(|&r| Ok(reading(py, r)?.map(Bound::unbind))).collect::<PyResult<_>>()?;
            Ok(Worker {
                pid: w.pid,
                uid: w.uid,
                title: w.title,
                readings,
                copy: w.copy,
                quarantined: w.quarantined,
                age_ms: w.age_ms,
                works_for_ms: w.works_for_ms,
                cores_milli: w.cores_milli,
            })
        };
        workers.into_iter().map(convert).collect()
    }

    fn hung_readers(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.scanner.hung_readers())
    }

    fn fallback(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| self.scanner.fallback())
    }
}

#[pyclass(frozen, get_all, module = "agent._scan")]
struct Totals {
    answered: u64,
    refused: u64,
    disconnected: u64,
    timed_out: u64,
    evicted: u64,
    no_fds: u64,
}

#[pyclass(module = "agent._scan")]
struct Answerer(answer::Answerer);

fn nets(allow: &[String]) -> PyResult<Vec<Net>> {
    let parse = |a: &String| Net::parse(a).ok_or_else(|| PyValueError::new_err(format!("{a:?} is not a network")));
    allow.iter().map(parse).collect()
}

#[pymethods]
impl Answerer {
    #[new]
    fn new(allow: Vec<String>) -> PyResult<Self> {
        Ok(Self(answer::Answerer::new(nets(&allow)?)))
    }

    fn configure(&mut self, allow: Vec<String>) -> PyResult<()> {
        self.0.configure(nets(&allow)?);
        Ok(())
    }

    fn set_replies(&mut self, default: Vec<u8>, pools: Vec<(String, Vec<u8>)>) {
        let pools = pools.into_iter().map(|(name, reply)| (name.into_bytes(), reply)).collect();
        self.0.set_replies(Replies { default, pools });
    }

    fn settle(&mut self, until_s: f64) {
        self.0.settle((until_s * 1e9) as u64);
    }

    fn settled(&self) -> bool {
        self.0.settled(clock::now_ns())
    }

    fn accept_allowed(&mut self, py: Python<'_>, listener: RawFd, most: usize) -> bool {
        py.detach(|| self.0.accept_allowed(borrowed(listener), most, clock::now_ns()))
    }

    fn serve_batch(&mut self, py: Python<'_>, listener: RawFd, most: usize) -> (i8, Vec<RawFd>) {
        let mut owing = Vec::new();
        let end = py.detach(|| self.0.serve_batch(borrowed(listener), most, clock::now_ns(), &mut owing));
        let end = match end {
            End::Drained => 0,
            End::More => 1,
            End::Stuck => -1,
        };
        (end, owing)
    }

    fn readable(&mut self, py: Python<'_>, fd: RawFd) -> bool {
        py.detach(|| self.0.readable(fd))
    }

    #[pyo3(signature = (fd, *, evicted=false))]
    fn expire(&mut self, py: Python<'_>, fd: RawFd, evicted: bool) {
        py.detach(|| self.0.expire(fd, evicted));
    }

    fn totals(&self) -> Totals {
        let t = self.0.totals();
        let (timed_out, evicted) = (t.timed_out, t.evicted);
        Totals {
            answered: t.answered,
            refused: t.refused,
            disconnected: t.disconnected,
            timed_out,
            evicted,
            no_fds: t.no_fds,
        }
    }

    fn answered_by_pool(&self) -> HashMap<String, u64> {
        self.0.answered_by_pool().map(|(pool, n)| (String::from_utf8_lossy(pool).into_owned(), n)).collect()
    }

    fn pollers(&self) -> Vec<(String, u64, u64, bool)> {
        self.0.pollers().map(|(a, p): (IpAddr, _)| (a.to_string(), p.polls, p.last_ns, p.allowed)).collect()
    }
}

fn borrowed<'a>(listener: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the caller's socket object keeps the descriptor open during the call.
    unsafe { BorrowedFd::borrow_raw(listener) }
}

/// See `hidden.rs`.
#[pyfunction]
fn hidden_by_name(
    py: Python<'_>,
    procfs: &str,
    selectors: Vec<PyRef<'_, Selector>>,
) -> PyResult<Vec<(u32, String, u32)>> {
    if selectors.len() > SELECTORS_MAX {
        return Err(Error::TooManySelectors(selectors.len()).into());
    }
    let selectors: Vec<_> = selectors.iter().map(|s| s.0.clone()).collect();
    let mut procfs = Procfs::open(Path::new(procfs))?;
    let context = Context { selectors, detail: false, way: Way::Stat };
    let found = py.detach(|| hidden::hidden_by_name(&mut procfs, &context));
    Ok(found.into_iter().map(|h| (h.pid, String::from_utf8_lossy(&h.comm).into_owned(), h.mask)).collect())
}

/// The one clock; see `clock.rs`.
#[pyfunction]
fn now_ns() -> u64 {
    clock::now_ns()
}

/// Finds workers and reads their titles; answers pollers. See `_scan.pyi`.
#[pymodule]
fn _scan(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("PRESETS", PyTuple::new(m.py(), selector::names().collect::<Vec<_>>())?)?;
    m.add("HUNG_READERS_MAX", scanner::HUNG_READERS_MAX)?;
    m.add_function(wrap_pyfunction!(now_ns, m)?)?;
    m.add_function(wrap_pyfunction!(hidden_by_name, m)?)?;
    m.add_class::<Selector>()?;
    m.add_class::<Scanner>()?;
    m.add_class::<Snapshot>()?;
    m.add_class::<Counts>()?;
    m.add_class::<Worker>()?;
    m.add_class::<Answerer>()?;
    m.add_class::<Totals>()
}

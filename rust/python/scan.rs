//! BOUNDARY. Scans: a configuration in, snapshots out. It must never hold logic.

use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::snapshot::{Snapshot, Worker};
use crate::cpu_time::Way;
use crate::discovery;
use crate::error::Error;
use crate::hidden;
use crate::procfs::Procfs;
use crate::read_task::Context;
use crate::scanner;
use crate::selector::{self, Spec};
use crate::title::Reading;
use crate::tracker::Tracker;

/// Each selector is one bit of a word.
const SELECTORS_MAX: usize = 32;

#[pyclass(frozen, module = "agent._scan")]
pub(super) struct Selector(selector::Selector);

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

#[pyclass(frozen, module = "agent._scan")]
pub(super) struct Scanner {
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
        // Everything that can fail comes first: afterwards the BPF programs change, which a former scanner shares.
        let procfs = Procfs::open(Path::new(procfs))?;
        let event = scanner::new_event()?;
        let former = former.as_ref().map(|f| &f.scanner);
        let handover = former.and_then(scanner::Scanner::handover);
        let choice = discovery::choose(discovery, &procfs, &selectors, handover, drop_privileges);
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

/// See `hidden.rs`.
#[pyfunction]
pub(super) fn hidden_by_name(
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

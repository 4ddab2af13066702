//! BOUNDARY. The module that Python imports. Only this file and those in `python/` name pyo3: arguments in, one call,
//! plain values out.
//!
//! They must never hold logic, nor the GIL during a read or a wait. The manual is `python/agent/_scan.pyi`.
#![allow(clippy::needless_pass_by_value, reason = "what pyo3 takes out of Python is owned")]

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::clock;
use crate::error::Error;
use crate::scanner;
use crate::selector;

mod polls;
mod scan;
mod snapshot;

use polls::{Answerer, Totals};
use scan::{Scanner, Selector, hidden_by_name};
use snapshot::{Counts, Snapshot, Worker};

impl From<Error> for PyErr {
    fn from(e: Error) -> Self {
        match e {
            Error::Root(text) => PyOSError::new_err(text),
            other => PyValueError::new_err(other.to_string()),
        }
    }
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

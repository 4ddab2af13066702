//! The map of the crate. It must never hold logic.
//!
//! Data flows one way: a [`discovery`] finds processes, the [`tracker`] knows which of them are workers and what must
//! be read, a [`read_task`] reads it, [`presets`] interpret it, and [`snapshot`] adds it up. [`scanner`] runs that on a
//! separate thread; [`answer`] sends replies to pollers; `python` is the boundary.

pub mod answer;
pub mod cgroup_cpu;
pub mod clock;
pub mod cpu_time;
pub mod discovery;
mod effort;
pub mod error;
pub mod hidden;
pub mod hung_reads;
mod mountinfo;
pub mod net;
pub mod pid;
pub mod presets;
pub mod procfs;
mod python;
pub mod quarantine;
pub mod read_task;
pub mod scanner;
pub mod selector;
pub mod snapshot;
pub mod title;
pub mod tracker;

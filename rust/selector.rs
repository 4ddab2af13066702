//! PURE. Which processes count for a pool, by name, user and cgroup, and how their titles are read.
//!
//! It must never know a program: those are in `presets.rs`.

use std::fmt::Write;

use regex::bytes::{Regex, RegexSet};

use crate::error::Error;
use crate::presets::{self, PRESETS, Preset};
use crate::title::{Custom, Reading, first_string};

/// The longest name that the kernel keeps of a process (`TASK_COMM_LEN` less the NUL).
pub const COMM_LEN_MAX: usize = 15;

/// What the configuration calls a pattern of the operator's own.
pub const CUSTOM: &str = "custom";

/// What can be chosen, in the order in which it is shown.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name).chain([CUSTOM])
}

/// How titles are read.
#[derive(Debug, Clone)]
pub enum Grammar {
    /// As a known program writes them.
    Known(&'static Preset),
    /// By a pattern of the operator's own.
    Custom(Box<Custom>),
}

impl Grammar {
    /// Whether the program writes its title at a heartbeat, rather than at each job.
    #[must_use]
    pub fn has_a_heartbeat(&self) -> bool {
        matches!(self, Self::Known(preset) if preset.has_a_heartbeat)
    }

    /// Reads what `cmdline` returned. Only the bytes up to the first NUL are a title: what
    /// follows is padding, or the rest of an argument vector that was never retitled.
    #[must_use]
    pub fn read(&self, cmdline: &[u8]) -> Reading {
        let title = first_string(cmdline);
        match self {
            Self::Known(preset) => (preset.read)(title),
            Self::Custom(custom) => custom.read(title),
        }
    }
}

/// One set of workers to count: a pool.
#[derive(Debug, Clone)]
pub struct Selector {
    /// How their titles are read.
    pub grammar: Grammar,
    /// What their processes are called.
    pub comm: Globs,
    /// Whose processes count: their real and their effective user are both among these ids. Empty: everyone's.
    pub users: Vec<u32>,
    /// Below which cgroups, as absolute paths without a trailing slash; empty: anywhere.
    pub cgroups: Vec<String>,
    /// How their CPU time is used.
    pub cpu: CpuUse,
    /// Cgroups whose CPU use counts in addition to the workers', as absolute paths.
    pub others: Vec<String>,
}

/// How a selector uses its workers' CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// A worker that works now has a job, whatever its title said at its last heartbeat.
    pub now: bool,
    /// The cores that workers use are what counts.
    pub cores: bool,
}

/// A selector as the configuration specifies it.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// One of [`names`].
    pub preset: String,
    /// Globs; empty: the preset's own.
    pub comm: Vec<String>,
    /// User ids.
    pub users: Vec<u32>,
    /// Cgroup paths.
    pub cgroups: Vec<String>,
    /// For `custom` only.
    pub pattern: String,
    /// For `custom` with a `state` group only.
    pub busy_states: Vec<String>,
    /// A worker that is working now has a job; only for programs that write their titles at a heartbeat.
    pub now: bool,
    /// The workers' cores are wanted.
    pub cores: bool,
    /// Cgroup paths.
    pub others: Vec<String>,
}

impl Selector {
    /// Compiles a specification.
    ///
    /// # Errors
    /// An unknown preset, a pattern or a glob that cannot be used.
    pub fn new(spec: &Spec) -> Result<Self, Error> {
        let (grammar, own) = if spec.preset == CUSTOM {
            let custom = Custom::new(&spec.pattern, &spec.busy_states).map_err(Error::Pattern)?;
            (Grammar::Custom(Box::new(custom)), &["*"][..])
        } else {
            let preset = presets::find(&spec.preset).ok_or_else(|| Error::UnknownPreset(spec.preset.clone()))?;
            (Grammar::Known(preset), preset.comm)
        };
        let comm = if spec.comm.is_empty() {
            Globs::new(&own.iter().map(ToString::to_string).collect::<Vec<_>>())?
        } else {
            Globs::new(&spec.comm)?
        };
        let paths = |given: &[String]| given.iter().map(|c| format!("/{}", c.trim_matches('/'))).collect();
        let cpu = CpuUse { now: spec.now && grammar.has_a_heartbeat(), cores: spec.cores };
        let (cgroups, others) = (paths(&spec.cgroups), paths(&spec.others));
        Ok(Self { grammar, comm, users: spec.users.clone(), cgroups, cpu, others })
    }

    /// Whether a cgroup path is one of, or below, this selector's.
    #[must_use]
    pub fn in_cgroup(&self, path: &str) -> bool {
        self.cgroups.iter().any(|c| {
            c == "/" || path.strip_prefix(c.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Globs (`*`, `?`, `[abc]`, `[!a-z]`) over the names of processes.
#[derive(Debug, Clone)]
pub struct Globs {
    set: RegexSet,
    texts: Vec<String>,
}

impl Globs {
    /// Compiles globs.
    ///
    /// # Errors
    /// A glob that is malformed, or longer than any name that the kernel keeps.
    pub fn new(globs: &[String]) -> Result<Self, Error> {
        let patterns = globs.iter().map(|g| translate(g)).collect::<Result<Vec<_>, _>>()?;
        let set = RegexSet::new(patterns).map_err(|e| Error::Glob(e.to_string()))?;
        Ok(Self { set, texts: globs.to_vec() })
    }

    /// As they were written.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether any of them matches.
    #[must_use]
    pub fn matches(&self, comm: &[u8]) -> bool {
        self.set.is_match(comm)
    }

    /// For filters that can only compare beginnings (the kernel's): the literal bytes before
    /// each glob's first metacharacter, and whether that is the whole glob.
    pub fn literals(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.texts.iter().map(|glob| {
            let end = glob.find(['*', '?', '[']).unwrap_or(glob.len());
            (&glob.as_bytes()[..end], end == glob.len())
        })
    }
}

/// A glob as a regular expression over bytes.
fn translate(glob: &str) -> Result<String, Error> {
    let bad = |why: &str| Error::Glob(format!("{glob:?} {why}"));
    let literal = glob.find(['*', '?', '[']).unwrap_or(glob.len());
    if glob.is_empty() || literal > COMM_LEN_MAX {
        return Err(bad("matches no process: the kernel keeps names of 1 to 15 bytes"));
    }
    let mut out = String::from("(?s-u)^");
    let mut rest = glob.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                let Some((class, after)) = rest.as_str().split_once(']') else {
                    return Err(bad("has a [class] without a closing bracket"));
                };
                rest = after.chars();
                let (not, class) = class.strip_prefix('!').map_or(("", class), |c| ("^", c));
                if class.is_empty() || class.contains(['[', '^', '\\', '&', '~']) || !class.is_ascii() {
                    return Err(bad("has a [class] that is empty or not supported"));
                }
                let _ = write!(out, "[{not}{class}]");
            }
            c => {
                for b in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\x{b:02x}");
                }
            }
        }
    }
    out.push('$');
    Regex::new(&out).map_err(|_| bad("is not a valid glob"))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Result<Globs, Error> {
        Globs::new(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn globs_match_whole_names_of_any_bytes() {
        let g = globs(&["ruby*", "s?w", "[ab]x", "[!a]y"]).unwrap();
        for name in [&b"ruby"[..], b"ruby3.1", b"ruby\xff\n", b"saw", b"bx", b"by"] {
            assert!(g.matches(name), "{}", name.escape_ascii());
        }
        for name in [&b"jruby"[..], b"sw", b"cx", b"ay", b""] {
            assert!(!g.matches(name), "{}", name.escape_ascii());
        }
        assert!(globs(&["a.c"]).unwrap().matches(b"a.c") && !globs(&["a.c"]).unwrap().matches(b"abc"));
    }

    #[test]
    fn a_glob_that_can_match_nothing_is_refused() {
        for bad in ["", "a-name-longer-than-15", "[", "[]", "[ab", "[z-a]"] {
            assert!(globs(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_literal_beginning_is_what_the_kernel_can_filter_by() {
        let g = globs(&["ruby*", "puma", "[ab]c"]).unwrap();
        let literals: Vec<_> = g.literals().collect();
        assert_eq!(literals, [(&b"ruby"[..], false), (b"puma", true), (b"", false)]);
    }

    #[test]
    fn a_cgroup_is_matched_by_whole_path_components() {
        let spec = Spec { preset: "sidekiq".into(), cgroups: vec!["jobs.slice/".into()], ..Spec::default() };
        let s = Selector::new(&spec).unwrap();
        assert!(s.in_cgroup("/jobs.slice") && s.in_cgroup("/jobs.slice/a.service"));
        assert!(!s.in_cgroup("/jobs.slice2") && !s.in_cgroup("/") && !s.in_cgroup("/x/jobs.slice"));
    }
}

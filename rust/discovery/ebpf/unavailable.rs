//! Why there are no candidates from the kernel, in one line that names the remedy. It must never try to mend anything.

use std::{error, fmt, io};

use super::KERNEL_BTF;

/// Why there are no candidates from the kernel. Its text names the remedy.
#[derive(Debug)]
pub enum Unavailable {
    /// The crate was built without clang.
    NotBuilt,
    /// The kernel's type information cannot be read.
    NoBtf(String),
    /// A capability is missing, or something else forbids bpf(2).
    NotPermitted(String),
    /// The procfs shows another pid namespace's numbers than the kernel programs see.
    OtherPidNamespace,
    /// The patterns name nothing to look for: the map would hold every process.
    TooBroad,
    /// Any other error of the kernel or the loader.
    Refused(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => write!(f, "built without clang: rebuild with clang installed"),
            Self::NoBtf(why) => {
                write!(f, "{KERNEL_BTF}: {why}: use a kernel with CONFIG_DEBUG_INFO_BTF=y")
            }
            Self::NotPermitted(why) => {
                write!(f, "{why}: grant CAP_BPF and CAP_PERFMON, and allow bpf(2)")
            }
            Self::OtherPidNamespace => {
                write!(f, "the procfs is not of the initial pid namespace: set scan.procfs to the host's")
            }
            Self::TooBroad => {
                write!(f, "a comm pattern that starts with a wildcard matches every process: list the workers' names")
            }
            Self::Refused(why) => write!(f, "not supported here: {why}"),
        }
    }
}

impl error::Error for Unavailable {}

/// Separates a lack of permission, which can be granted, from all other errors.
#[allow(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
pub(super) fn refused(error: impl error::Error + 'static) -> Unavailable {
    let mut cause: Option<&(dyn error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if errno == Some(libc::EPERM) {
            return Unavailable::NotPermitted(format!(
                "{} (seccomp, lockdown, a user namespace, or before Linux 5.11 LimitMEMLOCK)",
                chain(error)
            ));
        }
        cause = error.source();
    }
    Unavailable::Refused(chain(&error))
}

/// The error and its causes in one short line: a verifier's log has thousands.
pub(super) fn chain(error: &dyn error::Error) -> String {
    let mut text = first_line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = first_line(error);
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

fn first_line(error: &dyn error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(160).collect()
}

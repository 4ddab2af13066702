//! Processes that do what a test tells them, and the stage on which the kernel watches them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use _scan::discovery::ebpf::{Candidate, Candidates, CommPrefix, probe};

/// Whether eBPF can be tested here. Where it cannot, a continuous integration fails, and anyone
/// else is told what is lacking.
pub fn here() -> bool {
    let Err(lacking) = probe(Path::new("/proc")) else {
        return true;
    };
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "eBPF must be tested in CI: {lacking}");
    // Not through the macro, whose output the harness keeps to itself.
    let _ = writeln!(io::stderr(), "skipped: {lacking}");
    false
}

/// Loaded programs with a filter that nobody else's processes pass.
pub struct Stage {
    pub candidates: Candidates,
    mark: String,
    directory: PathBuf,
}

impl Stage {
    /// `None` where eBPF cannot be tested; see [`here`].
    pub fn new() -> Option<Self> {
        Self::with_room_for(4096)
    }

    pub fn with_room_for(max_entries: u32) -> Option<Self> {
        here().then(|| Self::load(max_entries, false))
    }

    pub fn load(max_entries: u32, drop_privileges: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("bw{:x}.{number:x}", std::process::id());
        let directory = env::temp_dir().join(&mark);
        fs::create_dir(&directory).unwrap();
        let prefix = CommPrefix::new(mark.as_bytes(), false);
        let candidates = Candidates::load(Path::new("/proc"), &[prefix], max_entries, drop_privileges).unwrap();
        Self { candidates, mark, directory }
    }

    /// A comm that passes the filter.
    pub fn inside(&self) -> String {
        format!("{}-", self.mark)
    }

    /// A comm that does not.
    pub fn outside(&self) -> String {
        format!("-{}", self.mark)
    }

    /// A program that echoes its input, by that file name.
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        if !path.exists() {
            symlink("/bin/cat", &path).unwrap();
        }
        path
    }

    pub fn all(&mut self) -> Vec<Candidate> {
        let mut found = Vec::new();
        self.candidates.read(&mut found).unwrap();
        found.sort_unstable();
        found
    }

    pub fn entry(&mut self, pid: u32) -> Option<Candidate> {
        self.all().into_iter().find(|candidate| candidate.tgid == pid)
    }

    pub fn holds(&mut self, pid: u32) -> bool {
        self.entry(pid).is_some()
    }

    /// Whether something comes true that the kernel does in its own time.
    pub fn soon(&mut self, condition: impl Fn(&mut Self) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    pub fn generation(&self) -> u64 {
        self.candidates.counters().unwrap().generation
    }

    pub fn lost(&self) -> u64 {
        self.candidates.counters().unwrap().lost
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A Python process under orders.
pub struct Puppet {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Puppet {
    /// It starts with a comm that no stage is interested in.
    pub fn new() -> Self {
        let mut child = Command::new(python())
            .args(["-I", "-S", "-c", include_str!("puppet.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut puppet = Self { child, orders, answers };
        assert_eq!(puppet.order("1 + 1"), "2");
        puppet
    }

    pub fn named(comm: &str) -> Self {
        let mut puppet = Self::new();
        puppet.order(&format!("name('{comm}')"));
        puppet
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it evaluate an expression, and waits for the value.
    pub fn order(&mut self, expression: &str) -> String {
        self.send(expression);
        self.answer()
    }

    /// Has it evaluate an expression that gives a process number.
    pub fn make(&mut self, expression: &str) -> u32 {
        self.order(expression).parse().unwrap()
    }

    /// Has it exec that program, from within `how` (`{}` stands for the call), and waits until
    /// the program answers.
    pub fn exec(&mut self, how: &str, program: &Path) {
        let call = format!("os.execv('{}', ['cat'])", program.display());
        self.send(&how.replace("{}", &call));
        assert_eq!(self.order("here"), "here");
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.orders, "{line}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it with its threads and children, and reaps it.
    pub fn end(self) {
        drop(self);
    }
}

/// The interpreter itself, whatever `python3` in the path may be wrapped in.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        String::from_utf8(asked.stdout).unwrap().trim_end().to_owned()
    })
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // SAFETY: kill(2) has no memory to go wrong with. The group is the puppet's own; its
        // number is taken until the puppet is reaped, below.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

//! Compiles `candidates.bpf.c` with clang, when clang is there.
//!
//! On success the crate is built with `cfg(busyweight_ebpf_object)` and embeds the object, so clang is not needed at
//! run time. Without clang it must never fail the build, unless `BUSYWEIGHT_EBPF=require`: the agent then reports at
//! run time that the object is missing.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "rust/bpf/candidates.bpf.c";
const HEADER: &str = "rust/bpf/candidates.h";

fn main() {
    for path in [SOURCE, HEADER, "rust/bpf/build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=BUSYWEIGHT_EBPF");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rustc-check-cfg=cfg(busyweight_ebpf_object)");

    match compile() {
        Ok(()) => println!("cargo::rustc-cfg=busyweight_ebpf_object"),
        Err(why) if env::var_os("BUSYWEIGHT_EBPF").is_some_and(|v| v == "require") => {
            println!("cargo::error=the eBPF object is required and was not built: {why}");
        }
        Err(why) => println!("cargo::warning=built without eBPF discovery: {why}"),
    }
}

fn compile() -> Result<(), String> {
    let variable = |name| env::var(name).map_err(|_| format!("{name} is not set"));
    let object = Path::new(&variable("OUT_DIR")?).join("candidates.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let output = Command::new(&clang)
        // Relative paths keep the builder's directories out of the object.
        .current_dir(variable("CARGO_MANIFEST_DIR")?)
        // `-g` is what writes the BTF; v3 instructions came before the hooks that are used.
        .args(["-target", target, "-mcpu=v3", "-std=gnu11", "-O2", "-g"])
        .args(["-nostdinc", "-fdebug-compilation-dir=.", "-Wall", "-Wextra"])
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .output()
        .map_err(|error| format!("{clang}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{clang}: {}", said.lines().next().unwrap_or("failed")));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    Ok(())
}

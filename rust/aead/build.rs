//! Builds the bridge to Intel's library where its header is installed.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_ipsec_mb)");
    println!("cargo::rerun-if-changed=src/ipsec_mb.c");
    // A path that is not there would have cargo build anew each time; the folder tells when it comes.
    let header = std::path::Path::new("/usr/include/intel-ipsec-mb.h");
    for path in [Some(header), header.parent()].into_iter().flatten() {
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
            break;
        }
    }
    let target = std::env::var("TARGET").unwrap_or_default();
    if !target.starts_with("x86_64-") || !target.contains("linux") {
        return;
    }
    let mut bridge = cc::Build::new();
    bridge.file("src/ipsec_mb.c").std("c11").opt_level(2);
    bridge.cargo_warnings(false).cargo_output(true);
    // Without the header it does not compile, and AWS-LC does all.
    if bridge.try_compile("ginnel_ipsec_mb").is_ok() {
        println!("cargo::rustc-cfg=has_ipsec_mb");
    }
}

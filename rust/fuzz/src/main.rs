//! libFuzzer around one target, `GINNEL_FUZZ_TARGET`: see `scripts/fuzz`.
#![no_main]

use std::sync::OnceLock;

use ginnel_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn wanted() -> &'static Target {
    let name = std::env::var("GINNEL_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("GINNEL_FUZZ_TARGET={name:?} is no target"))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.get_or_init(wanted).run)(data));

//! One binary for all targets: the environment variable `FREEHOLD_FUZZ_TARGET` names the one to run. Built by
//! `cargo xtask fuzz`, libFuzzer brings the `main`; otherwise it says how to run it.

#![cfg_attr(fuzzing, no_main)]
#![cfg_attr(fuzzing, expect(unsafe_code, reason = "libFuzzer calls a C function"))]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: std::sync::OnceLock<freehold_fuzz::Target> = std::sync::OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FREEHOLD_FUZZ_TARGET").unwrap_or_default();
        let found = freehold_fuzz::TARGETS.iter().find(|target| target.name == name);
        *found.unwrap_or_else(|| panic!("FREEHOLD_FUZZ_TARGET={name:?} is no target"))
    });
    (target.run)(bytes);
});

#[cfg(not(fuzzing))]
#[expect(clippy::print_stdout, reason = "a command for people")]
fn main() {
    println!("run with `cargo xtask fuzz TARGET [SECONDS]`; the targets:");
    for target in freehold_fuzz::TARGETS {
        println!("  {}", target.name);
    }
}

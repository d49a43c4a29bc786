#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rtbpf_tests::fuzz::sound::check(data);
});

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rtbpf_tests::fuzz::program::check_text(data);
});

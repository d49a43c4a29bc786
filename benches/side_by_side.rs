//! How fast is a program as native code, beside the same C compiled natively (`-O2`, not vectorised) and beside rbpf?
//!
//! Input: the compute programs of `programs/`, on 4096 pseudo-random bytes. All engines are interleaved in one process;
//! a figure is the median of 31 rounds, its spread the middle half. Also: a run that returns 0 at once.

use std::hint::black_box;
use std::time::Instant;

use rtbpf_benches::{Library, Run, assumed, memory, native, recorded};
use rtbpf_jit::Options;

const ROUNDS: usize = 31;

/// A thing to time: returns what the program returns.
type Engine<'a> = Box<dyn FnMut() -> u64 + 'a>;

/// Median and the middle half of nanoseconds a call, for each engine, interleaved.
fn interleave(engines: &mut [(&'static str, Engine<'_>)]) -> Vec<(f64, f64)> {
    let begun = Instant::now();
    black_box(engines[0].1());
    let once = begun.elapsed().as_nanos().max(20) as u64;
    let calls = (200_000 / once).clamp(5, 20_000);
    let mut times = vec![Vec::with_capacity(ROUNDS); engines.len()];
    for _ in 0..ROUNDS {
        for ((_, engine), times) in engines.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..calls {
                black_box(engine());
            }
            times.push(begun.elapsed().as_nanos() as f64 / calls as f64);
        }
    }
    let summary = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[ROUNDS / 2], times[ROUNDS * 3 / 4] - times[ROUNDS / 4])
    };
    times.into_iter().map(summary).collect()
}

fn main() {
    let Some(options) = Options::host() else { return println!("skipped: no native code for this processor") };
    let library = Library::compiled();
    println!(
        "{:16} {:>10} {:>10} {:>10} {:>10}   ratios to native C (spread)",
        "ns a run", "native C", "optimised", "fast", "rbpf"
    );
    let mut logs = vec![Vec::new(); 3];
    for program in recorded() {
        let verified = assumed(&program.bytes);
        let mut mem = memory();
        let fast = Options { optimise: None, ..options };
        let mut optimised = Run::new(native(&verified, &options), &mem);
        let mut plain = Run::new(native(&verified, &fast), &mem);
        let mut others = memory();
        let mut rbpf = rbpf::EbpfVmRaw::new(Some(&program.bytes)).ok();
        if rbpf.as_mut().is_some_and(|vm| vm.jit_compile().is_err()) {
            rbpf = None;
        }
        let (want, also) = (optimised.run(), plain.run());
        assert_eq!(want, also, "{}: the tiers differ", program.name);
        assert_eq!(optimised.mem(), plain.mem(), "{}: the tiers differ in memory", program.name);
        let mut engines: Vec<(&'static str, Engine<'_>)> = Vec::new();
        if let Some(function) = library.as_ref().and_then(|library| library.get(&program.name)) {
            let at = mem.as_mut_ptr().cast::<u8>();
            // SAFETY: the function stays within the 4096 bytes that `mem` has.
            let call = move || unsafe { function(at, 4096) };
            assert_eq!(call(), want, "{}: native C differs", program.name);
            engines.push(("native C", Box::new(call)));
        }
        engines.push(("optimised", Box::new(|| optimised.run())));
        engines.push(("fast", Box::new(|| plain.run())));
        if let Some(vm) = &rbpf {
            let bytes = others.as_mut_ptr().cast::<u8>();
            engines.push((
                "rbpf",
                Box::new(move || {
                    // SAFETY: `others` has 4096 bytes, which nobody else uses while the program runs on them.
                    unsafe { vm.execute_program_jit(std::slice::from_raw_parts_mut(bytes, 4096)) }.unwrap_or(0)
                }),
            ));
        }
        let times = interleave(&mut engines);
        let time =
            |name: &str| engines.iter().position(|(known, _)| *known == name).and_then(|at| times.get(at).copied());
        let text = |name: &str| time(name).map_or("-".into(), |(ns, _)| format!("{ns:.0}"));
        print!("{:16}", program.name);
        ["native C", "optimised", "fast", "rbpf"].iter().for_each(|name| print!(" {:>10}", text(name)));
        if let Some((base, _)) = time("native C") {
            for (name, logs) in ["optimised", "fast", "rbpf"].iter().zip(&mut logs) {
                if let Some((ns, spread)) = time(name) {
                    print!("   {:.2} ({:.2})", ns / base, spread / base);
                    logs.push((ns / base).ln());
                }
            }
        }
        println!();
    }
    let geomean = |logs: &Vec<f64>| (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
    println!(
        "geomean of ratios: optimised {:.3}, fast {:.3}, rbpf {:.3}",
        geomean(&logs[0]),
        geomean(&logs[1]),
        geomean(&logs[2])
    );
    // mov r0, 0; exit
    let nothing = assumed(&[0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
    let mut run = Run::new(native(&nothing, &options), &memory());
    let mut engines: Vec<(&'static str, Engine<'_>)> = vec![(
        "return 0",
        Box::new(|| {
            for _ in 0..1000 {
                black_box(run.run());
            }
            0
        }),
    )];
    let (ns, spread) = interleave(&mut engines)[0];
    println!("return 0: {:.2} ns a run ({:.2})", ns / 1000.0, spread / 1000.0);
}

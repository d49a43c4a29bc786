//! The engines that run a recorded program, each as a function from a number of runs to nanoseconds a run.

use std::sync::Arc;

use rtbpf_abi::{MapKind, ProgKind, ProgType};
use rtbpf_benches::runs::{checked, ours, threaded};
use rtbpf_benches::{Library, MEM, Recorded, memory};
use rtbpf_isa::RawInsn;
use rtbpf_jit::Options;
use rtbpf_tests::generate::{Case, CaseMap};
use rtbpf_tests::kernel;
use solana_sbpf::aligned_memory::AlignedMemory;
use solana_sbpf::ebpf;
use solana_sbpf::elf::Executable;
use solana_sbpf::memory_region::{MemoryMapping, MemoryRegion};
use solana_sbpf::program::{BuiltinProgram, FunctionRegistry, SBPFVersion};
use solana_sbpf::verifier::RequisiteVerifier;
use solana_sbpf::vm::{CallFrame, Config as SbpfConfig, ContextObject, EbpfVm, ExecutionMode};

use crate::time;

/// Nanoseconds a run, over so many runs.
pub type Engine = Box<dyn FnMut(u64) -> f64>;

/// The columns, native C first.
#[rustfmt::skip]
pub const NAMES: [&str; 10] = [
    "native C", "rtbpf", "fast tier", "Linux", "rbpf", "sbpf", "threaded", "checked", "rbpf int.", "sbpf int.",
];

/// Whether the running kernel can be asked, and this thread is kept on one CPU for it.
pub fn linux() -> bool {
    match kernel::permitted().and_then(|()| kernel::pin()) {
        Ok(()) => true,
        Err(reason) => {
            println!("without the kernel: {reason}");
            false
        }
    }
}

/// Every engine that takes `program` and agrees with the first on its result, in the order of [`NAMES`].
pub fn all(program: &Recorded, library: Option<&Library>, linux: bool) -> Vec<(&'static str, Engine)> {
    let with_v3 = program.v3.as_ref().unwrap_or(&program.bytes);
    let host = Options::host().expect("main has asked");
    let functions: [Option<Box<dyn FnMut() -> u64>>; 10] = [
        library.and_then(|library| compiled(library, &program.name)),
        Some(ours(program, &host)),
        Some(ours(program, &Options { optimise: None, ..host })),
        None,
        rbpf(with_v3, true),
        sbpf(with_v3, true),
        Some(threaded(program)),
        Some(checked(program)),
        rbpf(with_v3, false),
        sbpf(with_v3, false),
    ];
    let mut found: Vec<(&'static str, Engine)> = Vec::new();
    let mut want = None;
    for (name, function) in NAMES.into_iter().zip(functions) {
        if name == "Linux" && linux {
            found.extend(in_linux(program).map(|engine| (name, engine)));
        }
        let Some(mut run) = function else { continue };
        let result = run();
        if *want.get_or_insert(result) == result {
            found.push((name, Box::new(move |calls| time(calls, &mut run))));
        } else {
            println!("{}: {name} answers {result:#x}, which is wrong", program.name);
        }
    }
    found
}

fn compiled(library: &Library, name: &str) -> Option<Box<dyn FnMut() -> u64>> {
    let (function, mut mem) = (library.get(name)?, memory());
    // SAFETY: the function stays within the 4096 bytes that `mem` has.
    Some(Box::new(move || unsafe { function(mem.as_mut_ptr().cast(), MEM as u64) }))
}

/// The program's bytes for ever: other engines borrow them, and the bench ends with the process.
fn leaked<T: ?Sized>(value: Box<T>) -> &'static mut T {
    Box::leak(value)
}

fn rbpf(bytes: &[u8], compiles: bool) -> Option<Box<dyn FnMut() -> u64>> {
    let mut vm = rbpf::EbpfVmRaw::new(Some(leaked(bytes.into()))).ok()?;
    let mem = leaked(memory().into_boxed_slice()).as_mut_ptr().cast::<u8>();
    if compiles {
        vm.jit_compile().ok()?;
    }
    Some(Box::new(move || {
        // SAFETY: the memory is this engine's own, has 4096 bytes and lives for ever.
        let mem = unsafe { std::slice::from_raw_parts_mut(mem, MEM) };
        // SAFETY: the program stays within its memory.
        let result = if compiles { unsafe { vm.execute_program_jit(mem) } } else { vm.execute_program(mem) };
        result.expect("it ran before")
    }))
}

/// What sbpf asks of a host.
struct Meter {
    mapping: MemoryMapping,
    left: u64,
}

impl ContextObject for Meter {
    fn consume(&mut self, amount: u64) {
        self.left = self.left.saturating_sub(amount);
    }
    fn get_remaining(&self) -> u64 {
        self.left
    }
    fn active_mapping_ptr(&mut self) -> std::ptr::NonNull<MemoryMapping> {
        (&mut self.mapping).into()
    }
}

/// solana-sbpf as it comes: metered, with translated addresses.
fn sbpf(bytes: &[u8], compiles: bool) -> Option<Box<dyn FnMut() -> u64>> {
    const METERED: u64 = 1 << 40;
    let loader = Arc::new(BuiltinProgram::new_loader(SbpfConfig::default()));
    let made =
        Executable::<Meter>::from_text_bytes(bytes, loader.clone(), SBPFVersion::V3, FunctionRegistry::default());
    let executable = leaked(Box::new(made.ok()?));
    executable.verify::<RequisiteVerifier>().ok()?;
    if compiles {
        executable.jit_compile().ok()?;
    }
    let config = executable.get_config();
    let stack = leaked(Box::new(AlignedMemory::<{ ebpf::HOST_ALIGN }>::zero_filled(config.stack_size())));
    let stack_len = stack.len();
    let mem: &mut [u64] = leaked(memory().into_boxed_slice());
    let mem = std::ptr::slice_from_raw_parts_mut(mem.as_mut_ptr().cast::<u8>(), MEM);
    let regions = vec![
        executable.get_ro_region(),
        MemoryRegion::new(stack, ebpf::MM_STACK_START),
        MemoryRegion::new(mem, ebpf::MM_INPUT_START),
    ];
    // SAFETY: stack and memory live for ever and are used by this engine only.
    let mapping = unsafe { MemoryMapping::new(regions, config, SBPFVersion::V3).ok()? };
    let meter = leaked(Box::new(Meter { mapping, left: METERED }));
    let mut frames = vec![CallFrame::default(); config.max_call_depth];
    let mut vm = EbpfVm::new(loader, SBPFVersion::V3, meter, stack_len);
    let mut registers = vm.registers;
    (registers[1], registers[2]) = (ebpf::MM_INPUT_START, MEM as u64);
    let mut run = move || {
        vm.registers = registers;
        vm.context().left = METERED;
        let mut mode = if compiles { ExecutionMode::Jit } else { ExecutionMode::Interpreted };
        vm.execute_program(executable, &mut mode, &mut frames).1
    };
    match Result::from(run()) {
        Ok(_) => Some(Box::new(move || Result::from(run()).expect("it ran before"))),
        Err(error) => {
            println!("sbpf: {error:?}");
            None
        }
    }
}

/// The kernel, on a program that gets its memory as the value of a map; `None` where its verifier gives up.
fn in_linux(program: &Recorded) -> Option<Engine> {
    let slot = |code, dst, src, imm| RawInsn { code, dst, src, off: 0, imm };
    let mut insns = vec![slot(0x18, 1, 2, 0), RawInsn::default(), slot(0xb7, 2, 0, MEM as i32)];
    insns.extend(RawInsn::parse_all(&program.bytes)?);
    let bytes: Vec<u8> = memory().iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut map = CaseMap::new(MapKind::Array, 4, MEM as u32, 1);
    map.init.push((vec![0; 4], bytes));
    let kind = ProgKind::of(ProgType::SchedCls, None, false)?;
    let (name, maps) = (program.name.clone(), vec![map]);
    let case = Case { name, kind, prog_flags: 0, insns, maps, typed: true, packets: Vec::new() };
    let loaded = kernel::load(&case, false).ok().filter(|loaded| loaded.verdict().errno == 0)?;
    Some(Box::new(move |runs| loaded.ns_a_run(&[0; 64], runs as u32).unwrap_or(f64::NAN)))
}

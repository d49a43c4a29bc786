//! `rtbpf run`: an object goes in, packets go in; verdicts, rewritten packets and map contents come out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rtbpf::abi::ProgType;
use rtbpf::abi::verdict::{Fate, verdict};
use rtbpf::{Config, Ctx, Engine, Instance, Proof, Session, World};
use serde_json::json;

use crate::capture::{Capture, CaptureOut, Packet};
use crate::dump;
use crate::error::Error;
use crate::input;
use crate::loaded::Loaded;
use crate::object::{ObjectArgs, value_bytes};

/// Runs a program of an object on packets or contexts.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    object: ObjectArgs,
    /// Program to run; needed when the object has several.
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
    /// Run on every packet of this pcap or pcapng file.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pcap: Option<PathBuf>,
    /// Write the packets that go on, as the program left them.
    #[arg(long, value_name = "FILE", requires = "pcap")]
    pcap_out: Option<PathBuf>,
    /// Run on these bytes as packet: hexadecimal digits or @FILE.
    #[arg(long, value_name = "HEX|@FILE")]
    data: Option<String>,
    /// Context of the run: hexadecimal digits or @FILE.
    #[arg(long, value_name = "HEX|@FILE")]
    ctx: Option<String>,
    /// Run this many times on each input.
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u64,
    /// Put an entry into a map before the run; key and value are numbers, "text" or hex:DIGITS.
    #[arg(long, value_name = "NAME=KEY:VALUE")]
    map: Vec<String>,
    /// Run without a proof, in the checked interpreter, which stops at the first bad access.
    #[arg(long)]
    no_verify: bool,
    /// What runs the program.
    #[arg(long, value_enum, default_value_t = EngineName::Checked, conflicts_with = "no_verify")]
    engine: EngineName,
    /// Native code for a program that may be hostile: no constant of it in the code, landing pads.
    #[arg(long)]
    harden: bool,
    /// Tell profilers and debuggers of native code: perf's map in /tmp, a jitdump in this folder, GDB's list.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TOOL")]
    tools: Vec<Tool>,
    /// Virtual CPUs of the machine.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum EngineName {
    /// The interpreter that tests every access
    Checked,
    /// The interpreter that trusts the proof
    Threaded,
    /// Native code
    Jit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Tool {
    PerfMap,
    Jitdump,
    Gdb,
}

/// Lines of trace output that are kept.
const MOST_TRACE_LINES: usize = 10_000;

/// What came of a batch of runs.
#[derive(Default)]
struct Tally {
    runs: u64,
    packets: u64,
    verdicts: BTreeMap<u32, u64>,
    refused: u64,
    faults: u64,
    /// Callbacks of timers that ran.
    timers: u64,
    first_refusal: Option<String>,
    first_fault: Option<String>,
    time: Duration,
    last: Option<(u32, Vec<u8>, Vec<u8>)>,
}

pub fn main(args: &Args) -> Result<(), Error> {
    let trace = Arc::new(Mutex::new(Vec::new()));
    let instance = &mut load(args, &trace)?;
    preset_maps(args, instance)?;
    let name = choose(args, instance)?;
    let located = |source| match source {
        rtbpf::Error::Rejected(refusal) => Error::Program {
            path: args.object.object.clone(),
            what: format!("{refusal} (`rtbpf verify` shows where, --no-verify runs it in the checked interpreter)"),
        },
        source => Error::Load { path: args.object.object.clone(), source: Box::new(source) },
    };
    let program = match args.engine {
        EngineName::Checked => instance.program(&name).map(Loaded::Checked),
        EngineName::Threaded => instance.threaded(&name).map(Loaded::Threaded),
        EngineName::Jit => {
            // A fault in native code is then a fault of the run, with its place, not the end of the command.
            let handled = rtbpf::install_fault_handler();
            handled.map_err(|error| Error::Option { option: "--engine jit".into(), what: error.to_string() })?;
            instance.native(&name).map(Loaded::Native)
        }
    };
    let program = program.map_err(located)?;
    let mut session = instance.engine().session(0);
    let ctx_in = args.ctx.as_deref().map(input::bytes).transpose()?.unwrap_or_default();
    let mut tally = Tally::default();
    let damage = match &args.pcap {
        Some(path) => {
            let capture = Capture::open(path)?;
            let mut out = args.pcap_out.as_deref().map(|out| CaptureOut::create(out, capture.link)).transpose()?;
            let bar = progress(capture.size, args.json);
            let mut damage = None;
            for packet in capture {
                match packet {
                    Ok(packet) => {
                        bar.inc(packet.bytes.len() as u64 + 16);
                        let forwarded = one(args, &program, &mut session, &packet.bytes, &ctx_in, &mut tally);
                        if let (Some(out), Some(bytes)) = (&mut out, forwarded) {
                            out.write(&Packet { time: packet.time, bytes })?;
                        }
                        tally.packets += 1;
                    }
                    Err(error) => damage = Some(error),
                }
            }
            bar.finish_and_clear();
            out.map(CaptureOut::finish).transpose()?;
            damage
        }
        None => {
            let data = args.data.as_deref().map(input::bytes).transpose()?;
            let data = data.unwrap_or_else(|| default_input(program.executable().prog_type()));
            one(args, &program, &mut session, &data, &ctx_in, &mut tally);
            None
        }
    };
    let trace = std::mem::take(&mut *trace.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    let single = args.pcap.is_none();
    if args.json {
        report_json(&name, program.executable().prog_type(), &tally, single, &trace, instance)?;
    } else {
        report(&name, program.executable().prog_type(), &tally, single, &trace, instance)?;
    }
    match damage {
        Some(damage) => Err(damage.into()),
        None if tally.faults > 0 => Err(Error::Refused),
        None => Ok(()),
    }
}

fn load(args: &Args, trace: &Arc<Mutex<Vec<String>>>) -> Result<Instance, Error> {
    let lines = trace.clone();
    let sink = move |line: &str| {
        if let Ok(mut lines) = lines.lock()
            && lines.len() < MOST_TRACE_LINES
        {
            lines.push(line.trim_end_matches('\n').to_string());
        }
    };
    let world = World { trace: Arc::new(sink), ..World::default() };
    let object = args.object.open()?;
    let plain_ctx_bytes =
        if object.programs.iter().any(|spec| spec.prog_type == ProgType::Plain) { shortest_input(args)? } else { 0 };
    let tools = rtbpf::jit::Tools {
        perf_map: args.tools.contains(&Tool::PerfMap),
        jitdump: args.tools.contains(&Tool::Jitdump).then(|| PathBuf::from(".")),
        gdb: args.tools.contains(&Tool::Gdb),
    };
    let engine = Engine::new(Config {
        slots: args.cpus.max(1),
        plain_ctx_bytes,
        harden: args.harden,
        tools,
        world,
        ..Config::linux()
    });
    let proof = if args.no_verify { Proof::Waived } else { Proof::Required };
    Instance::new(&engine, object, proof)
        .map_err(|source| Error::Load { path: args.object.object.clone(), source: Box::new(source) })
}

/// Bytes that every input has: what a plain program may take for granted.
fn shortest_input(args: &Args) -> Result<u32, Error> {
    let bytes = match (&args.pcap, &args.data) {
        (Some(path), _) => Capture::open(path)?.map_while(Result::ok).map(|packet| packet.bytes.len()).min(),
        (None, Some(data)) => Some(input::bytes(data)?.len()),
        (None, None) => Some(default_input(ProgType::Plain).len()),
    };
    Ok(u32::try_from(bytes.unwrap_or(0)).unwrap_or(u32::MAX))
}

fn preset_maps(args: &Args, instance: &Instance) -> Result<(), Error> {
    for setting in &args.map {
        let bad = |what: String| Error::Option { option: format!("--map {setting}"), what };
        let (name, entry) = setting.split_once('=').ok_or_else(|| bad("write NAME=KEY:VALUE".into()))?;
        let map = instance.map(name).ok_or_else(|| {
            let names: Vec<&str> = instance.object().maps.iter().map(|map| map.name.as_str()).collect();
            bad(format!("no such map; the object has {}", names.join(", ")))
        })?;
        let spec = map.spec();
        let (key, value) = match entry.strip_prefix("hex:").and_then(|rest| rest.split_once(":hex:")) {
            Some((key, value)) => (format!("hex:{key}"), format!("hex:{value}")),
            None => {
                let (key, value) = entry.split_once(':').ok_or_else(|| bad("write NAME=KEY:VALUE".into()))?;
                (key.to_string(), value.to_string())
            }
        };
        let sized = |text: &str, size: u32| {
            let mut bytes = value_bytes(text, size).map_err(bad)?;
            bytes.resize(size as usize, 0);
            Ok::<_, Error>(bytes)
        };
        let (key, value) = (sized(&key, spec.key_size)?, sized(&value, spec.value_size)?);
        let value = if spec.kind.is_percpu() {
            let mut one = value;
            one.resize(one.len().next_multiple_of(8), 0);
            one.repeat(instance.engine().config().slots as usize)
        } else {
            value
        };
        map.update(&rtbpf::rt::RunCx::CONTROL, &key, value.as_slice().into(), 0).map_err(|e| bad(e.to_string()))?;
    }
    Ok(())
}

/// The program to run: the named one, or the only one.
fn choose(args: &Args, instance: &Instance) -> Result<String, Error> {
    if let Some(name) = &args.prog {
        return Ok(name.clone());
    }
    let programs = &instance.object().programs;
    match &programs[..] {
        [only] => Ok(only.name.clone()),
        [] => Err(Error::Program { path: args.object.object.clone(), what: "the object has no programs".into() }),
        several => {
            let names: Vec<&str> = several.iter().map(|spec| spec.name.as_str()).collect();
            let what = format!("{} programs; choose one of {}", names.len(), names.join(", "));
            Err(Error::Option { option: "--prog".into(), what })
        }
    }
}

/// What a program runs on when nothing is given: 64 zero bytes, as `bpftool prog run` users do, or no packet at all.
fn default_input(prog_type: ProgType) -> Vec<u8> {
    match prog_type {
        ProgType::Xdp
        | ProgType::SocketFilter
        | ProgType::SchedCls
        | ProgType::SchedAct
        | ProgType::CgroupSkb
        | ProgType::LwtIn
        | ProgType::LwtOut
        | ProgType::LwtXmit
        | ProgType::LwtSeg6local
        | ProgType::FlowDissector
        | ProgType::Plain => vec![0; 64],
        _ => Vec::new(),
    }
}

/// Runs on one input; the packet as the program left it, if it goes on.
fn one(
    args: &Args,
    runner: &Loaded,
    session: &mut Session,
    data: &[u8],
    ctx_in: &[u8],
    tally: &mut Tally,
) -> Option<Vec<u8>> {
    let mut left = None;
    let program = runner.executable();
    for _ in 0..args.repeat.max(1) {
        let mut ctx = match Ctx::test_run(program.prog_type(), program.attach_type(), data, ctx_in) {
            Ok(ctx) => ctx,
            Err(error) => {
                tally.refused += 1;
                tally.first_refusal.get_or_insert_with(|| error.to_string());
                return None;
            }
        };
        let begun = Instant::now();
        let result = runner.run(session, &mut ctx);
        tally.time += begun.elapsed();
        tally.runs += 1;
        match session.run_timers() {
            Ok(fired) => tally.timers += fired as u64,
            Err(fault) => {
                tally.faults += 1;
                tally.first_fault.get_or_insert_with(|| format!("in a timer's callback: {fault}"));
            }
        }
        match result {
            Ok(value) => {
                let value = value as u32;
                *tally.verdicts.entry(value).or_default() += 1;
                let forwarded = match verdict(program.prog_type(), value) {
                    Some((.., fate)) => fate == Fate::Forwarded,
                    None => value != 0,
                };
                left = forwarded.then(|| ctx.data_out());
                tally.last = Some((value, ctx.data_out(), ctx.to_vec()));
            }
            Err(fault) => {
                tally.faults += 1;
                tally.first_fault.get_or_insert_with(|| fault.to_string());
                left = None;
            }
        }
    }
    left
}

fn progress(bytes: u64, quiet: bool) -> ProgressBar {
    /// Below this many bytes a bar would only flicker.
    const LONG: u64 = 8 << 20;
    if quiet || bytes < LONG {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn verdict_name(prog_type: ProgType, value: u32) -> String {
    verdict(prog_type, value).map_or_else(|| (value as i32).to_string(), |(_, name, _)| name.to_string())
}

fn report(
    name: &str,
    prog_type: ProgType,
    tally: &Tally,
    single: bool,
    trace: &[String],
    instance: &Instance,
) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let per_run = tally.time.checked_div(u32::try_from(tally.runs).unwrap_or(u32::MAX)).unwrap_or_default();
    write!(out, "{name} ({}): ", prog_type.name())?;
    if !single {
        write!(out, "{} packets, ", tally.packets)?;
    }
    writeln!(out, "{} runs, {} ns each", tally.runs, per_run.as_nanos())?;
    for (value, count) in &tally.verdicts {
        let share = *count as f64 * 100.0 / tally.runs.max(1) as f64;
        writeln!(out, "  {:<18} {count:>10}  {share:5.1} %", verdict_name(prog_type, *value))?;
    }
    if let Some(why) = &tally.first_refusal {
        writeln!(out, "  {:<18} {:>10}  first: {why}", "refused inputs", tally.refused)?;
    }
    if let Some(why) = &tally.first_fault {
        writeln!(out, "  {:<18} {:>10}  first: {why}", "faults", tally.faults)?;
    }
    if tally.timers > 0 {
        writeln!(out, "  {:<18} {:>10}", "timers fired", tally.timers)?;
    }
    if let (true, Some((_, data, _))) = (single, &tally.last)
        && !data.is_empty()
    {
        writeln!(out, "  data out: {}", hex::encode(data))?;
    }
    for dump in dump::all(instance) {
        dump.print(&mut out)?;
    }
    if !trace.is_empty() {
        writeln!(out, "\ntrace:")?;
        for line in trace {
            // A program's own text: control characters must not reach the terminal.
            writeln!(out, "  {}", line.escape_debug())?;
        }
        if trace.len() == MOST_TRACE_LINES {
            writeln!(out, "  … only the first {MOST_TRACE_LINES} lines were kept")?;
        }
    }
    Ok(out.flush()?)
}

fn report_json(
    name: &str,
    prog_type: ProgType,
    tally: &Tally,
    single: bool,
    trace: &[String],
    instance: &Instance,
) -> Result<(), Error> {
    let verdicts: serde_json::Map<String, serde_json::Value> =
        tally.verdicts.iter().map(|(value, count)| (verdict_name(prog_type, *value), json!(count))).collect();
    let mut answer = json!({
        "program": name, "type": prog_type.name(), "packets": tally.packets, "runs": tally.runs,
        "time_ns": tally.time.as_nanos() as u64, "verdicts": verdicts,
        "refused": tally.refused, "first_refusal": tally.first_refusal,
        "faults": tally.faults, "first_fault": tally.first_fault, "timers_fired": tally.timers,
        "maps": dump::all(instance).iter().map(dump::Dump::json).collect::<Vec<_>>(), "trace": trace,
    });
    if let (true, Some((value, data, ctx))) = (single, &tally.last) {
        answer["retval"] = json!(value);
        answer["data_out"] = json!(hex::encode(data));
        answer["ctx_out"] = json!(hex::encode(ctx));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

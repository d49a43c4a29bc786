//! `bpf(2)`, as far as an oracle needs it: maps, loading, test runs. Nothing is ever attached.
//!
//! The one file of the suites that holds `unsafe`.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rtbpf_abi::MapSpec;

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const BTF_LOAD: i64 = 18;
const MAP_FREEZE: i64 = 22;

/// What `BPF_MAP_CREATE` takes, up to `map_extra`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MapAttr {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Elements, or bytes for a ring buffer.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
    /// The template of the inner maps.
    pub inner: u32,
    /// NUMA node.
    pub numa_node: u32,
    /// Name.
    pub name: [u8; 16],
    /// Network device.
    pub ifindex: u32,
    /// Type information, and the types of key and value in it.
    pub btf: u32,
    /// See `btf`.
    pub btf_key: u32,
    /// See `btf`.
    pub btf_value: u32,
    /// Type of the value in the kernel's BTF.
    pub btf_kernel_value: u32,
    /// What some kinds take besides.
    pub extra: u64,
}

impl MapAttr {
    /// A map like `spec`, without its types and its inner map, which the kernel knows by descriptor.
    pub fn of(spec: &MapSpec) -> MapAttr {
        MapAttr {
            kind: spec.kind.number(),
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            flags: spec.flags,
            numa_node: spec.numa_node,
            extra: spec.map_extra,
            ..MapAttr::default()
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kernel_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    core_relo_count: u32,
    fd_array: u64,
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// The system call. `Attr` is one of the structures above, whose addresses point to buffers that outlive the call.
fn bpf<Attr>(command: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes `size_of::<Attr>()` bytes at `attr`, which we hold exclusively, and the
    // buffers whose addresses and sizes the functions below put there from live slices.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Makes a map.
pub fn map_create(attr: MapAttr) -> io::Result<OwnedFd> {
    bpf(MAP_CREATE, &mut { attr }).map(owned)
}

/// Stores an element. `key` and `value` have the map's sizes, which the caller chose at creation; for per-CPU maps
/// `value` holds one value a possible CPU.
pub fn map_update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let mut attr = ElemAttr { fd: map.as_raw_fd() as u32, key, value, ..ElemAttr::default() };
    bpf(MAP_UPDATE, &mut attr).map(|_| ())
}

/// Reads an element into `value`, which is as large as an element of the map.
pub fn map_lookup(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_mut_ptr() as u64);
    let mut attr = ElemAttr { fd: map.as_raw_fd() as u32, key, value, ..ElemAttr::default() };
    bpf(MAP_LOOKUP, &mut attr).map(|_| ())
}

/// Makes a map read-only for everything but programs.
pub fn map_freeze(map: &OwnedFd) -> io::Result<()> {
    bpf(MAP_FREEZE, &mut (map.as_raw_fd() as u32)).map(|_| ())
}

#[repr(C)]
#[derive(Default)]
struct BtfAttr {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
}

/// The type of the function at a slot (`struct bpf_func_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FuncInfo {
    /// First slot.
    pub slot: u32,
    /// BTF type id.
    pub btf_id: u32,
}

/// Loads type information.
pub fn btf_load(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = BtfAttr { btf: bytes.as_ptr() as u64, size: bytes.len() as u32, ..BtfAttr::default() };
    bpf(BTF_LOAD, &mut attr).map(owned)
}

/// A program to load.
pub struct Load<'a> {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// Load flags.
    pub flags: u32,
    /// Slots of 8 bytes.
    pub insns: &'a [u8],
    /// Where functions begin, in slots, and their types in this BTF; the entry first.
    pub functions: Option<(&'a OwnedFd, &'a [FuncInfo])>,
    /// The maps that wide loads may name by index.
    pub maps: &'a [OwnedFd],
    /// What the log holds: bit 0 paths, bit 1 every state, bit 2 statistics.
    pub log_level: u32,
    /// Licence.
    pub license: &'a CStr,
}

/// Loads a program. `log` takes the verifier's words and may be empty.
pub fn prog_load(load: &Load<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let fds: Vec<RawFd> = load.maps.iter().map(AsRawFd::as_raw_fd).collect();
    let mut attr = LoadAttr {
        prog_type: load.prog_type,
        attach_type: load.attach_type,
        prog_flags: load.flags,
        insn_count: (load.insns.len() / 8) as u32,
        insns: load.insns.as_ptr() as u64,
        license: load.license.as_ptr() as u64,
        log_level: if log.is_empty() { 0 } else { load.log_level },
        log_size: log.len() as u32,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        btf_fd: load.functions.map_or(0, |(btf, _)| btf.as_raw_fd() as u32),
        func_info_rec_size: load.functions.map_or(0, |_| size_of::<FuncInfo>() as u32),
        func_info: load.functions.map_or(0, |(_, info)| info.as_ptr() as u64),
        func_info_count: load.functions.map_or(0, |(_, info)| info.len() as u32),
        fd_array: if fds.is_empty() { 0 } else { fds.as_ptr() as u64 },
        ..LoadAttr::default()
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Runs a program once on `data_in`; answers its result and how many bytes of `data_out` it wrote.
pub fn test_run(prog: &OwnedFd, data_in: &[u8], data_out: &mut [u8]) -> io::Result<(u32, usize)> {
    let mut attr = RunAttr {
        fd: prog.as_raw_fd() as u32,
        data_size_in: data_in.len() as u32,
        data_size_out: data_out.len() as u32,
        data_in: data_in.as_ptr() as u64,
        data_out: data_out.as_mut_ptr() as u64,
        repeat: 1,
        ..RunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok((attr.retval, attr.data_size_out as usize))
}

/// Runs a program `repeat` times on `data_in`; nanoseconds a run, as the kernel measured.
pub fn time_runs(prog: &OwnedFd, data_in: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attr = RunAttr {
        fd: prog.as_raw_fd() as u32,
        data_size_in: data_in.len() as u32,
        data_in: data_in.as_ptr() as u64,
        repeat,
        ..RunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.duration)
}

/// Binds the calling thread to the CPU it runs on.
pub fn pin() -> io::Result<()> {
    // SAFETY: takes nothing and touches no memory of ours.
    let cpu = unsafe { libc::sched_getcpu() };
    let mut mask = [0u64; 16];
    let cpu = usize::try_from(cpu).map_err(|_| io::Error::last_os_error())?;
    *mask.get_mut(cpu / 64).ok_or(io::ErrorKind::Unsupported)? = 1 << (cpu % 64);
    // SAFETY: the kernel reads `size_of_val(&mask)` bytes at `mask`, which lives beyond the call.
    let answer = unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

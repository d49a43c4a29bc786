//! Contexts of tracing programs, of `syscall` programs and of infrared decoders.

use super::rows::{BHWD, D, Row, W, fields, layout, num};
use super::{CtxLayout, FieldKind, Narrow, OpenRange};
use crate::prog_kind::ProgKind as K;

macro_rules! registers {
    ($reads:ident) => {
        [
            num("r15", 0, 8, $reads),
            num("r14", 8, 8, $reads),
            num("r13", 16, 8, $reads),
            num("r12", 24, 8, $reads),
            num("rbp", 32, 8, $reads),
            num("rbx", 40, 8, $reads),
            num("r11", 48, 8, $reads),
            num("r10", 56, 8, $reads),
            num("r9", 64, 8, $reads),
            num("r8", 72, 8, $reads),
            num("rax", 80, 8, $reads),
            num("rcx", 88, 8, $reads),
            num("rdx", 96, 8, $reads),
            num("rsi", 104, 8, $reads),
            num("rdi", 112, 8, $reads),
            num("orig_rax", 120, 8, $reads),
            num("rip", 128, 8, $reads),
            num("cs", 136, 8, $reads),
            num("eflags", 144, 8, $reads),
            num("rsp", 152, 8, $reads),
            num("ss", 160, 8, $reads),
        ]
    };
}

// Registers of the traced machine: x86-64, on every host, so that a program means the same everywhere.
const PT_REGS_ROWS: [Row; 21] = registers!(BHWD);

pub(super) static PT_REGS: CtxLayout = layout("pt_regs", 168, &const { fields(&PT_REGS_ROWS, 168, K::Kprobe) });

const fn perf_event_rows() -> [Row; 23] {
    let registers = registers!(D);
    let mut rows = [num("sample_period", 168, 8, BHWD); 23];
    let mut i = 0;
    while i < registers.len() {
        rows[i] = registers[i];
        i += 1;
    }
    rows[22] = num("addr", 176, 8, BHWD);
    rows
}

pub(super) static PERF_EVENT: CtxLayout =
    layout("bpf_perf_event_data", 184, &const { fields(&perf_event_rows(), 184, K::PerfEvent) });

/// The first 8 bytes belong to the tracing machinery; the size of a record is known at attach. Linux also accepts
/// negative offsets here, which lie outside of any record: we do not.
pub(super) static TRACEPOINT: CtxLayout = CtxLayout {
    name: "tracepoint record",
    size: 8192,
    native_size: 8192,
    fields: &[],
    open: Some(OpenRange { first: 8, end: 8192, writable: false, aligned: true }),
};

const RAW_TRACEPOINT_ROWS: [Row; 1] = [num("args", 0, 96, BHWD)];

pub(super) static RAW_TRACEPOINT: CtxLayout =
    layout("bpf_raw_tracepoint_args", 96, &const { fields(&RAW_TRACEPOINT_ROWS, 96, K::RawTp) });

const fn writable_rows() -> [Row; 2] {
    let buffer = super::rows::ptr("args[0]", 0, 8, FieldKind::TracepointBuffer);
    [buffer.reads(BHWD).narrow(Narrow::NotStart), num("args", 8, 88, BHWD)]
}

pub(super) static RAW_TRACEPOINT_WRITABLE: CtxLayout =
    layout("bpf_raw_tracepoint_args", 96, &const { fields(&writable_rows(), 96, K::RawTpWritable) });

/// The caller's buffer; its size is known at run.
pub(super) static SYSCALL: CtxLayout = CtxLayout {
    name: "syscall argument",
    size: 32768,
    native_size: 32768,
    fields: &[],
    open: Some(OpenRange { first: 0, end: 32768, writable: true, aligned: true }),
};

// The Linux documentation of LIRC: a pulse, space or timeout sample.
const LIRC_ROWS: [Row; 1] = [num("sample", 0, 4, W)];

pub(super) static LIRC: CtxLayout = layout("lirc_mode2 sample", 4, &const { fields(&LIRC_ROWS, 4, K::Lirc) });

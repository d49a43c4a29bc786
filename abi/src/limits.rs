//! The limits of Linux 6.18, one documented list: each is the largest that loads there, as measured or documented.

/// Bytes of stack per frame, and of a whole call chain where frames share it.
pub const STACK_BYTES: u32 = 512;
/// A frame's bytes are rounded up to a multiple of this before a chain is summed up; an empty frame adds nothing.
pub const STACK_ROUND: u32 = 16;
/// Bytes that the frames of callers may take, rounded up, when a subprogram below them makes a tail call: fewer than
/// this.
pub const STACK_BEFORE_TAIL_CALL: u32 = 256;
/// Frames of bpf-to-bpf calls and callbacks, the entry included.
pub const MAX_FRAMES: usize = 8;
/// Tail calls in one run; the 34th program does not start.
pub const MAX_TAIL_CALLS: u32 = 33;
/// Instruction slots of a program.
pub const MAX_INSNS: usize = 1_000_000;
/// The same for loaders without CAP_BPF.
pub const MAX_INSNS_UNPRIVILEGED: usize = 4096;
/// Instructions the verifier processes before it gives up.
pub const MAX_PROCESSED_INSNS: u64 = 1_000_000;
/// Branches whose other way waits to be explored; one more is EFAULT.
pub const MAX_PENDING_BRANCHES: usize = 8192;
/// Subprograms of a program, the entry included.
pub const MAX_SUBPROGS: usize = 256;
/// Arguments of a function that BTF describes.
pub const MAX_FUNC_ARGS: usize = 5;
/// Maps that one program references.
pub const MAX_MAPS: usize = 64;
/// BTF objects that one program references.
pub const MAX_BTFS: usize = 64;
/// Iterations of one `bpf_loop`; more are E2BIG when it runs.
pub const MAX_LOOPS: u64 = 1 << 23;
/// Iterations of a `may_goto` loop without a timer.
pub const MAX_MAY_GOTO: u64 = 1 << 23;
/// Absolute value that a pointer's offset must stay below.
pub const MAX_VAR_OFF: i64 = 1 << 29;
/// Bytes that a packet pointer may be proven to cover, and the highest offset it may have.
pub const MAX_PACKET_OFF: u32 = 0xffff;
/// Bytes of a dynptr.
pub const MAX_DYNPTR_BYTES: u32 = (1 << 24) - 1;
/// Bytes that `bpf_ringbuf_output` and `reserve` take in one record.
pub const MAX_RINGBUF_RECORD: u32 = (u32::MAX / 4) & !7;
/// Bytes of a program's, map's or object's name without its terminator.
pub const MAX_NAME: usize = 15;
/// Bytes of a licence string that are looked at, terminator included.
pub const LICENSE_BYTES: usize = 128;
/// Bytes of the attributes of one `bpf(2)` call.
pub const MAX_ATTR_BYTES: usize = 4096;
/// Special fields of one value: kernel pointers among them.
pub const MAX_SPECIAL_FIELDS: usize = 11;
/// CPUs that a cpumap may number.
pub const MAX_CPUMAP: u32 = 256;
/// Packets that a cpumap's queue may hold.
pub const MAX_CPUMAP_QUEUE: u32 = 16_384;
/// Conversions of one format string.
pub const MAX_PRINTF_ARGS: usize = 12;

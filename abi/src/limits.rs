//! The limits of Linux 6.18, one documented list.

/// Bytes of stack per frame, and of a whole call chain where frames share it.
pub const STACK_BYTES: u32 = 512;
/// Frames of bpf-to-bpf calls, the entry included.
pub const MAX_FRAMES: usize = 8;
/// Tail calls in one run; the 34th program does not start.
pub const MAX_TAIL_CALLS: u32 = 33;
/// Instruction slots of a program.
pub const MAX_INSNS: usize = 1_000_000;
/// Instructions the verifier processes before it gives up.
pub const MAX_PROCESSED_INSNS: u64 = 1_000_000;
/// Subprograms of a program, the entry included.
pub const MAX_SUBPROGS: usize = 256;
/// Maps that one program references.
pub const MAX_MAPS: usize = 64;
/// Iterations of one `bpf_loop`.
pub const MAX_LOOPS: u64 = 1 << 23;
/// Absolute value that a pointer's offset must stay below.
pub const MAX_VAR_OFF: i64 = 1 << 29;
/// Bytes that a packet pointer may be proven to cover.
pub const MAX_PACKET_OFF: u32 = 0xffff;

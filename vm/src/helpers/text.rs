//! Strings, numbers in them, and memory that may not be there: `strtol`, `strtoul`, `strncmp`, the `probe_read` family
//! (bpf-helpers(7)).

use rtbpf_abi::Errno;

use super::native::Cx;
use super::number::{self, Parsed};
use super::{status, value};

/// Bytes of text that a number may take (Linux copies this many).
const LONGEST_NUMBER: usize = 63;

fn number_text(cx: &Cx<'_>) -> Vec<u8> {
    cx.copied(1, (cx.arg(2) as u32 as usize).min(LONGEST_NUMBER))
}

/// Stores the number in argument 4, 0 where there is none; answers how many bytes of text it took.
fn store(cx: &Cx<'_>, parsed: Result<Parsed<u64>, Errno>) -> u64 {
    cx.write(4, 8, &parsed.map_or(0, |parsed| parsed.value).to_ne_bytes());
    value(parsed.map(|parsed| parsed.taken as u64))
}

pub(crate) fn strtol(cx: &mut Cx<'_>) -> u64 {
    let parsed = number::strtol(&number_text(cx), cx.arg(3));
    store(cx, parsed.map(|Parsed { value, taken }| Parsed { value: value as u64, taken }))
}

pub(crate) fn strtoul(cx: &mut Cx<'_>) -> u64 {
    store(cx, number::strtoul(&number_text(cx), cx.arg(3)))
}

/// -1, 0 or 1, as Linux's own `strncmp`.
pub(crate) fn strncmp(cx: &mut Cx<'_>) -> u64 {
    let (left, right) = (cx.copied(1, cx.arg(2) as u32 as usize), cx.string(3));
    let right = right.iter().copied().chain(std::iter::once(0));
    for (a, b) in left.iter().copied().zip(right) {
        if a != b {
            return if a < b { -1i64 as u64 } else { 1 };
        }
        if a == 0 {
            break;
        }
    }
    0
}

/// Where the kernel's half of the addresses begins.
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// Whose memory a probe means to read. Any that the host declares is read either way; what is not there answers EFAULT,
/// and ERANGE where a probe of the kernel's names an address below its half.
#[derive(Clone, Copy)]
enum Half {
    Any,
    Kernel,
}

fn probe(cx: &mut Cx<'_>, half: Half, addr: u64, out: &mut [u8]) -> Result<(), Errno> {
    cx.probe(addr, out).map_err(|errno| match half {
        Half::Kernel if addr < KERNEL => Errno::ERANGE,
        Half::Kernel | Half::Any => errno,
    })
}

/// Copies memory at an address that nobody vouches for. What cannot be read leaves zeros.
pub(crate) fn probe_read(cx: &mut Cx<'_>) -> u64 {
    read(cx, Half::Any)
}

/// See [`probe_read`].
pub(crate) fn probe_read_kernel(cx: &mut Cx<'_>) -> u64 {
    read(cx, Half::Kernel)
}

fn read(cx: &mut Cx<'_>, half: Half) -> u64 {
    let mut bytes = vec![0; cx.arg(2) as u32 as usize];
    let read = probe(cx, half, cx.arg(3), &mut bytes);
    if read.is_err() {
        bytes.fill(0);
    }
    cx.write(1, bytes.len(), &bytes);
    status(read)
}

/// Copies a string with its NUL, cut to the room there is; answers its length with the NUL.
pub(crate) fn probe_read_str(cx: &mut Cx<'_>) -> u64 {
    read_str(cx, Half::Any)
}

/// See [`probe_read_str`].
pub(crate) fn probe_read_kernel_str(cx: &mut Cx<'_>) -> u64 {
    read_str(cx, Half::Kernel)
}

fn read_str(cx: &mut Cx<'_>, half: Half) -> u64 {
    let room = cx.arg(2) as u32 as usize;
    let text = probed_text(cx, half, room);
    match &text {
        Ok(text) => cx.write(1, room, text),
        Err(_) => cx.write(1, room, &vec![0; room]),
    }
    value(text.map(|text| text.len() as u64))
}

fn probed_text(cx: &mut Cx<'_>, half: Half, room: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() < room {
        let mut byte = [0];
        probe(cx, half, cx.arg(3).wrapping_add(text.len() as u64), &mut byte)?;
        text.push(byte[0]);
        if byte == [0] {
            return Ok(text);
        }
    }
    if let Some(last) = text.last_mut() {
        *last = 0;
    }
    Ok(text)
}

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

/// Stores the number in argument 4; answers how many bytes of text it took.
fn store(cx: &Cx<'_>, parsed: Result<Parsed<u64>, Errno>) -> u64 {
    value(parsed.map(|parsed| {
        cx.write(4, 8, &parsed.value.to_ne_bytes());
        parsed.taken as u64
    }))
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

/// Copies memory at an address that nobody vouches for. What cannot be read leaves zeros and answers EFAULT.
pub(crate) fn probe_read(cx: &mut Cx<'_>) -> u64 {
    let mut bytes = vec![0; cx.arg(2) as u32 as usize];
    let read = cx.probe(cx.arg(3), &mut bytes);
    if read.is_err() {
        bytes.fill(0);
    }
    cx.write(1, bytes.len(), &bytes);
    status(read)
}

/// Copies a string with its NUL, cut to the room there is; answers its length with the NUL.
pub(crate) fn probe_read_str(cx: &mut Cx<'_>) -> u64 {
    let room = cx.arg(2) as u32 as usize;
    let text = probed_text(cx, room);
    match &text {
        Ok(text) => cx.write(1, room, text),
        Err(_) => cx.write(1, room, &vec![0; room]),
    }
    value(text.map(|text| text.len() as u64))
}

fn probed_text(cx: &mut Cx<'_>, room: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() < room {
        let mut byte = [0];
        cx.probe(cx.arg(3).wrapping_add(text.len() as u64), &mut byte)?;
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

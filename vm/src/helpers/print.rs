//! Text that programs print: `trace_printk`, `trace_vprintk`, `snprintf` (bpf-helpers(7)).

use rtbpf_abi::Errno;

use super::format::{self, Memory};
use super::native::Cx;
use super::value;

/// Arguments that one format may have.
const MOST_ARGS: usize = 12;

/// The longest line that `trace_printk` prints.
const LONGEST_LINE: usize = 1024;

/// Reads what format arguments point to.
struct Reads<'a, 'b>(std::cell::RefCell<&'a mut Cx<'b>>);

impl Memory for Reads<'_, '_> {
    fn read(&self, addr: u64, _user: bool, out: &mut [u8]) -> Result<(), Errno> {
        self.0.borrow_mut().probe(addr, out)
    }
}

fn render(cx: &mut Cx<'_>, fmt: &[u8], args: &[u64]) -> Result<Vec<u8>, Errno> {
    format::format(fmt, args, &Reads(std::cell::RefCell::new(cx)))
}

/// The format in argument 1, of the size in argument 2; EINVAL without a NUL.
fn sized_format(cx: &Cx<'_>) -> Result<Vec<u8>, Errno> {
    let mut fmt = cx.copied(1, cx.arg(2) as u32 as usize);
    let end = fmt.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
    fmt.truncate(end);
    Ok(fmt)
}

/// The words in argument `n`, whose size in bytes is argument `n + 1`.
fn words(cx: &Cx<'_>, n: usize) -> Result<Vec<u64>, Errno> {
    let len = cx.arg(n + 1) as u32 as usize;
    if !len.is_multiple_of(8) || len > MOST_ARGS * 8 || (len != 0 && cx.arg(n) == 0) {
        return Err(Errno::EINVAL);
    }
    let bytes = cx.copied(n, len);
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

/// Hands a line to the sink; answers its length.
fn trace(cx: &mut Cx<'_>, fmt: &[u8], args: &[u64]) -> Result<u64, Errno> {
    let mut line = render(cx, fmt, args)?;
    let len = line.len() as u64;
    line.truncate(LONGEST_LINE);
    cx.host().world().trace.print(&String::from_utf8_lossy(&line));
    Ok(len)
}

pub(crate) fn trace_printk(cx: &mut Cx<'_>) -> u64 {
    let args = [cx.arg(3), cx.arg(4), cx.arg(5)];
    value(sized_format(cx).and_then(|fmt| trace(cx, &fmt, &args)))
}

pub(crate) fn trace_vprintk(cx: &mut Cx<'_>) -> u64 {
    value(words(cx, 3).and_then(|args| {
        let fmt = sized_format(cx)?;
        trace(cx, &fmt, &args)
    }))
}

/// Answers the length of the whole text with its NUL, also where it did not fit.
pub(crate) fn snprintf(cx: &mut Cx<'_>) -> u64 {
    value(words(cx, 4).and_then(|args| {
        let fmt = cx.string(3);
        let mut text = render(cx, &fmt, &args)?;
        let (len, room) = (text.len() as u64 + 1, cx.arg(2) as u32 as usize);
        if let Some(last) = room.checked_sub(1) {
            text.truncate(last);
            text.push(0);
            cx.write(1, room, &text);
        }
        Ok(len)
    }))
}

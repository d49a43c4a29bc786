//! Dynptrs: memory with a size that is known at run time (bpf-helpers(7)).
//!
//! The 16 bytes that a program keeps on its stack hold no address. They are a number into the run's own table, so that
//! a program that writes over them, verified or not, reaches nothing but dynptrs that it made itself.

use rtbpf_abi::Errno;

use super::native::Cx;
use super::ringbuf::{self, End};
use super::status;
use crate::mem::Buffer;

/// The largest dynptr, in bytes (Linux: `DYNPTR_MAX_SIZE`).
const LARGEST: u64 = (1 << 24) - 1;

/// What a dynptr is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// Memory of a map value.
    Local,
    /// A ring buffer record.
    Ringbuf,
    /// The packet, which may move.
    Packet,
}

/// One dynptr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dynptr {
    pub over: Over,
    /// Native address of the memory; 0 for packets.
    pub addr: u64,
    /// Bytes from its start that this dynptr leaves out.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
    pub read_only: bool,
}

impl Dynptr {
    /// Where `len` bytes at `at` lie in the memory; E2BIG outside.
    fn range(&self, at: u64, len: u64) -> Result<u64, Errno> {
        match at.checked_add(len) {
            Some(end) if end <= self.size as u64 => Ok(self.offset as u64 + at),
            _ => Err(Errno::E2BIG),
        }
    }
}

/// The dynptrs of one run.
#[derive(Default)]
pub(crate) struct Dynptrs(Vec<Option<Dynptr>>);

impl Dynptrs {
    /// Forgets all of them.
    #[inline]
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What the program keeps: the number plus one, so that zeroed memory is the null dynptr.
    pub fn add(&mut self, dynptr: Dynptr) -> [u8; 16] {
        let at = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        match self.0.get_mut(at) {
            Some(free) => *free = Some(dynptr),
            None => self.0.push(Some(dynptr)),
        }
        let mut handle = [0; 16];
        let (number, _) = handle.split_at_mut(8);
        number.copy_from_slice(&(at as u64 + 1).to_ne_bytes());
        handle
    }

    fn index(handle: &[u8]) -> Option<usize> {
        let number = handle.first_chunk::<8>().map(|number| u64::from_ne_bytes(*number))?;
        usize::try_from(number).ok()?.checked_sub(1)
    }

    /// The dynptr behind what the program keeps; `None` for a null one.
    pub fn get(&self, handle: &[u8]) -> Option<Dynptr> {
        *self.0.get(Dynptrs::index(handle)?)?
    }

    /// Takes it out of the table.
    pub fn take(&mut self, handle: &[u8]) -> Option<Dynptr> {
        self.0.get_mut(Dynptrs::index(handle)?)?.take()
    }
}

impl Dynptr {
    /// Over bytes that a callback may read.
    pub fn shown(bytes: &Buffer) -> Dynptr {
        Dynptr { over: Over::Local, addr: bytes.addr(), offset: 0, size: bytes.len() as u32, read_only: true }
    }
}

/// The dynptr in argument `n`.
fn get(cx: &mut Cx<'_>, n: usize) -> Option<Dynptr> {
    let handle = cx.copied(n, 16);
    cx.host().dynptrs.get(&handle)
}

/// Makes argument `n` this dynptr, or the null one.
pub(crate) fn put(cx: &mut Cx<'_>, n: usize, dynptr: Option<Dynptr>) {
    let handle = dynptr.map_or([0; 16], |dynptr| cx.host().dynptrs.add(dynptr));
    cx.write(n, 16, &handle);
}

pub(crate) fn from_mem(cx: &mut Cx<'_>) -> u64 {
    let (addr, size, flags) = (cx.arg(1), cx.arg(2) as u32, cx.arg(3));
    let made = match (size as u64 <= LARGEST, flags) {
        (false, _) => Err(Errno::E2BIG),
        (true, 0) => Ok(Dynptr { over: Over::Local, addr, offset: 0, size, read_only: false }),
        (true, _) => Err(Errno::EINVAL),
    };
    put(cx, 4, made.ok());
    status(made.map(|_| ()))
}

pub(crate) fn ringbuf_reserve(cx: &mut Cx<'_>) -> u64 {
    let (size, flags) = (cx.arg(2) as u32, cx.arg(3));
    let made = match (size as u64 <= LARGEST, flags) {
        (false, _) => Err(Errno::E2BIG),
        (true, 0) => match ringbuf::reserve_in(cx, 1, size as u64, 0) {
            Some(addr) => Ok(Dynptr { over: Over::Ringbuf, addr, offset: 0, size, read_only: false }),
            None => Err(Errno::EINVAL),
        },
        (true, _) => Err(Errno::EINVAL),
    };
    put(cx, 4, made.ok());
    status(made.map(|_| ()))
}

fn ringbuf_end(cx: &mut Cx<'_>, how: End) -> u64 {
    let handle = cx.copied(1, 16);
    if let Some(dynptr) = cx.host().dynptrs.take(&handle)
        && dynptr.over == Over::Ringbuf
    {
        let flags = cx.arg(2);
        ringbuf::end(cx, dynptr.addr, flags, how);
    }
    put(cx, 1, None);
    0
}

pub(crate) fn ringbuf_submit(cx: &mut Cx<'_>) -> u64 {
    ringbuf_end(cx, End::Submit)
}

pub(crate) fn ringbuf_discard(cx: &mut Cx<'_>) -> u64 {
    ringbuf_end(cx, End::Discard)
}

pub(crate) fn read(cx: &mut Cx<'_>) -> u64 {
    let (len, at, flags) = (cx.arg(2) as u32 as usize, cx.arg(4) as u32, cx.arg(5));
    let bytes = match get(cx, 3) {
        Some(dynptr) if flags == 0 => bytes_of(cx, &dynptr, at as u64, len),
        _ => Err(Errno::EINVAL),
    };
    status(bytes.map(|bytes| cx.write(1, len, &bytes)))
}

fn bytes_of(cx: &mut Cx<'_>, dynptr: &Dynptr, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let at = dynptr.range(at, len as u64)?;
    match dynptr.over {
        Over::Packet => {
            let mut bytes = vec![0; len];
            let found = cx.host().ctx.packet().is_some_and(|packet| packet.read(at as usize, &mut bytes));
            if found { Ok(bytes) } else { Err(Errno::EFAULT) }
        }
        Over::Local | Over::Ringbuf => Ok(cx.dynptr_memory(dynptr, at, len).as_bytes().to_vec()),
    }
}

pub(crate) fn write(cx: &mut Cx<'_>) -> u64 {
    let (at, len, flags) = (cx.arg(2) as u32, cx.arg(4) as u32 as usize, cx.arg(5));
    let written = match get(cx, 1) {
        Some(dynptr) if !dynptr.read_only => {
            let bytes = cx.copied(3, len);
            store(cx, &dynptr, at as u64, &bytes, flags)
        }
        _ => Err(Errno::EINVAL),
    };
    status(written)
}

fn store(cx: &mut Cx<'_>, dynptr: &Dynptr, at: u64, bytes: &[u8], flags: u64) -> Result<(), Errno> {
    let at = dynptr.range(at, bytes.len() as u64)?;
    match dynptr.over {
        Over::Packet => {
            let stored = cx.host().ctx.packet().is_some_and(|packet| packet.write(at as usize, bytes));
            if stored { Ok(()) } else { Err(Errno::EFAULT) }
        }
        Over::Local | Over::Ringbuf if flags != 0 => Err(Errno::EINVAL),
        Over::Local | Over::Ringbuf => {
            cx.dynptr_memory(dynptr, at, bytes.len()).fill(bytes.into());
            Ok(())
        }
    }
}

/// Only memory that stands still has an address to hand out.
pub(crate) fn data(cx: &mut Cx<'_>) -> u64 {
    let (at, len) = (cx.arg(2) as u32, cx.arg(3) as u32);
    match get(cx, 1) {
        Some(dynptr) if !dynptr.read_only && dynptr.over != Over::Packet => {
            dynptr.range(at as u64, len as u64).map_or(0, |at| dynptr.addr + at)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_keeps_is_a_number_and_null_is_zero() {
        let dynptr = Dynptr { over: Over::Local, addr: 0x7000, offset: 4, size: 10, read_only: false };
        let mut table = Dynptrs::default();
        let handle = table.add(dynptr);
        assert_eq!(table.get(&handle), Some(dynptr));
        assert_eq!(table.get(&[0; 16]), None);
        assert_eq!(table.get(&[0xff; 16]), None);
        assert_eq!(table.take(&handle), Some(dynptr));
        assert_eq!(table.get(&handle), None);
        assert_eq!(table.add(dynptr), handle, "numbers are used again");
    }

    #[test]
    fn ranges_stay_inside() {
        let dynptr = Dynptr { over: Over::Local, addr: 0, offset: 4, size: 10, read_only: false };
        assert_eq!(dynptr.range(2, 8), Ok(6));
        assert_eq!(dynptr.range(2, 9), Err(Errno::E2BIG));
        assert_eq!(dynptr.range(u64::MAX, 2), Err(Errno::E2BIG));
    }
}

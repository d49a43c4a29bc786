//! A packet's bytes, with room before and behind them.
//!
//! ```text
//!  0        meta       data                 end          buffer end
//!  │ headroom │ metadata │ bytes of the packet │ tailroom │
//! ```

use std::sync::Arc;

use rtbpf_isa::Size;

use crate::mem::{Buffer, Span};
use crate::region::{Region, RegionKind};

/// A packet buffer and the marks in it, as byte offsets.
#[derive(Debug)]
pub struct Packet {
    buffer: Arc<Buffer>,
    /// Where the room before the packet begins: at a multiple of 256 in native memory. Programs may look at the low bits
    /// of a pointer, which on Linux say where in its page the packet lies.
    base: usize,
    meta: usize,
    data: usize,
    end: usize,
    /// How far the end may move without a new buffer.
    limit: usize,
    /// How many of the first bytes `data..data_end` shows; all of them but for paged buffers.
    linear: usize,
    /// Where the network header lies, from the first byte.
    network: usize,
    /// The innermost checksum that a device found right; `None` when it looked at none.
    csum_level: Option<u8>,
}

/// A packet of its own: bytes, room and marks are copied.
impl Clone for Packet {
    fn clone(&self) -> Packet {
        let bytes = self.buffer.to_vec(self.base, self.limit - self.base);
        let (buffer, base) = aligned(bytes.len());
        buffer.write(base, &bytes);
        let moved = |at: usize| at - self.base + base;
        let (meta, data) = (moved(self.meta), moved(self.data));
        Packet { buffer, base, meta, data, end: moved(self.end), limit: moved(self.limit), ..*self }
    }
}

impl Packet {
    /// `bytes`, with room for `headroom` more before and `tailroom` more behind.
    pub fn new(bytes: &[u8], headroom: usize, tailroom: usize) -> Packet {
        let (buffer, base) = aligned(headroom + bytes.len() + tailroom);
        let data = base + headroom;
        buffer.write(data, bytes);
        let (end, limit) = (data + bytes.len(), data + bytes.len() + tailroom);
        Packet { buffer, base, meta: data, data, end, limit, linear: usize::MAX, network: 0, csum_level: None }
    }

    /// Its length in bytes, without metadata.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.data
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.end == self.data
    }

    /// Bytes that programs see between `data` and `data_end`.
    #[inline]
    pub fn linear_len(&self) -> usize {
        self.len().min(self.linear)
    }

    /// Shows programs only the first `len` bytes, as a paged buffer does until they are pulled.
    pub fn set_linear(&mut self, len: usize) {
        self.linear = len;
    }

    /// Where the network header lies, from the first byte.
    pub fn network(&self) -> usize {
        self.network
    }

    /// Says where the network header lies.
    pub fn set_network(&mut self, offset: usize) {
        self.network = offset;
    }

    /// The innermost checksum that a device found right, 0 to 3; `None` when it looked at none.
    pub fn csum_level(&self) -> Option<u8> {
        self.csum_level
    }

    /// See [`Packet::csum_level`].
    pub fn set_csum_level(&mut self, level: Option<u8>) {
        self.csum_level = level;
    }

    /// Bytes of metadata before it.
    pub fn meta_len(&self) -> usize {
        self.data - self.meta
    }

    /// Bytes free before the metadata.
    pub fn headroom(&self) -> usize {
        self.meta - self.base
    }

    /// Bytes free behind it.
    pub fn tailroom(&self) -> usize {
        self.limit - self.end
    }

    /// Native addresses of metadata, data and end.
    #[inline]
    pub fn addrs(&self) -> (u64, u64, u64) {
        let at = |off: usize| self.buffer.addr() + off as u64;
        (at(self.meta), at(self.data), at(self.data + self.linear_len()))
    }

    /// A copy of its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.buffer.to_vec(self.data, self.len())
    }

    /// A copy of its metadata and bytes.
    pub fn to_vec_with_meta(&self) -> Vec<u8> {
        self.buffer.to_vec(self.meta, self.end - self.meta)
    }

    /// The bytes at `at`; `false` when they do not all lie inside.
    pub fn read(&self, at: usize, out: &mut [u8]) -> bool {
        self.inside(at, out.len()) && self.buffer.read(self.data + at, out)
    }

    /// The bytes at `at`, which may be negative: what a device pulled off still lies before the packet. `false` when they
    /// do not all lie in the buffer.
    pub fn read_from(&self, at: i64, out: &mut [u8]) -> bool {
        let start = self.data as i64 + at;
        let inside = start >= self.base as i64 && start + out.len() as i64 <= self.end as i64;
        inside && usize::try_from(start).is_ok_and(|start| self.buffer.read(start, out))
    }

    /// Overwrites the bytes at `at`; `false` when they do not all lie inside.
    pub fn write(&self, at: usize, bytes: &[u8]) -> bool {
        self.inside(at, bytes.len()) && self.buffer.write(self.data + at, bytes)
    }

    fn inside(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len())
    }

    /// The big-endian number at `at`; `None` outside.
    pub fn load(&self, at: i64, size: Size) -> Option<u64> {
        let mut bytes = [0; 8];
        let used = bytes.get_mut(8 - size.bytes() as usize..)?;
        self.read(usize::try_from(at).ok()?, used).then_some(u64::from_be_bytes(bytes))
    }

    /// The big-endian number at `at` from the link-layer header, which lies 14 bytes before the network header.
    pub fn load_from_link(&self, at: i64, size: Size) -> Option<u64> {
        let mut bytes = [0; 8];
        let used = bytes.get_mut(8 - size.bytes() as usize..)?;
        self.read_from(self.network as i64 - 14 + at, used).then_some(u64::from_be_bytes(bytes))
    }

    /// The region that programs see: metadata and linear bytes.
    pub fn region(&self, writable: bool) -> Region {
        let len = self.meta_len() + self.linear_len();
        let origin = self.headroom() as i64;
        Region { origin, ..Region::memory(RegionKind::Packet, Span::of(&self.buffer, self.meta, len), writable) }
    }

    /// Moves the start by `delta` bytes, metadata with it; `false` when there is no room, or fewer than `keep` bytes
    /// would be left.
    pub fn move_head(&mut self, delta: i64, keep: usize) -> bool {
        let moved = |mark: usize| usize::try_from(mark as i64 + delta).ok();
        match (moved(self.meta), moved(self.data)) {
            (Some(meta), Some(data)) if meta >= self.base && data + keep <= self.data + self.linear_len() => {
                if self.linear < self.len() {
                    self.linear = self.data + self.linear - data;
                }
                if self.meta < self.data {
                    let bytes = self.buffer.to_vec(self.meta, self.meta_len());
                    self.buffer.write(meta, &bytes);
                }
                (self.meta, self.data) = (meta, data);
                true
            }
            _ => false,
        }
    }

    /// Moves the start of the metadata by `delta` bytes; `false` when it would leave the headroom or pass the data.
    pub fn move_meta(&mut self, delta: i64) -> bool {
        match usize::try_from(self.meta as i64 + delta) {
            Ok(meta) if meta >= self.base && meta <= self.data => {
                self.meta = meta;
                true
            }
            _ => false,
        }
    }

    /// Makes the first `len` bytes metadata; `false` when there are fewer.
    pub fn split_meta(&mut self, len: usize) -> bool {
        let inside = len <= self.len();
        if inside {
            self.meta = self.data;
            self.data += len;
        }
        inside
    }

    /// Drops the metadata.
    pub fn clear_meta(&mut self) {
        self.meta = self.data;
    }

    /// Sets the length; new bytes are zero. Grows the buffer where `grow` allows it; `false` when there is no room.
    pub fn set_len(&mut self, len: usize, grow: bool) -> bool {
        let Some(end) = self.data.checked_add(len) else { return false };
        if end > self.limit {
            if !grow {
                return false;
            }
            self.reallocate(self.data - self.base, end - self.data);
        }
        let old = self.end;
        self.end = self.data + len;
        if self.end > old {
            self.buffer.write(old, &vec![0; self.end - old]);
        }
        true
    }

    /// Inserts `len` zero bytes at `at`, or removes `-len` there, by moving the bytes before `at`. The buffer grows as
    /// it must. `false` when the range does not lie inside.
    pub fn resize_at(&mut self, at: usize, len: i64) -> bool {
        let old = self.to_vec();
        let Some((head, tail)) = old.split_at_checked(at) else { return false };
        let mut new = head.to_vec();
        match usize::try_from(len) {
            Ok(added) => {
                new.resize(at + added, 0);
                new.extend_from_slice(tail);
            }
            Err(_) => match tail.get(len.unsigned_abs() as usize..) {
                Some(kept) => new.extend_from_slice(kept),
                None => return false,
            },
        }
        let start = self.data as i64 - len;
        match usize::try_from(start) {
            Ok(start) if start >= self.base => self.data = start,
            _ => self.reallocate(256, new.len()),
        }
        self.meta = self.data;
        self.end = self.data + new.len();
        self.buffer.write(self.data, &new)
    }

    /// Moves everything to a new buffer, with `headroom` bytes before the data and room for `room` bytes of it.
    fn reallocate(&mut self, headroom: usize, room: usize) {
        let (len, meta_len) = (self.len(), self.meta_len());
        let bytes = self.to_vec_with_meta();
        let (headroom, room) = (headroom.max(meta_len), room.max(len));
        let (buffer, base) = aligned(headroom + room + SPARE);
        let data = base + headroom;
        buffer.write(data - meta_len, &bytes);
        let (meta, end, limit) = (data - meta_len, data + len, data + room + SPARE);
        *self = Packet { buffer, base, meta, data, end, limit, ..*self };
    }
}

/// Room behind a packet that was moved to a larger buffer.
const SPARE: usize = 512;

/// A buffer with room for `len` bytes from the offset returned, whose native address is a multiple of 256.
fn aligned(len: usize) -> (Arc<Buffer>, usize) {
    const ALIGN: u64 = 256;
    let buffer = Buffer::zeroed(len + ALIGN as usize);
    let base = buffer.addr().next_multiple_of(ALIGN) - buffer.addr();
    (buffer, base as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_tails_move_within_their_room() {
        let mut packet = Packet::new(b"abcdef", 8, 4);
        assert!(packet.move_head(2, 0));
        assert_eq!(packet.to_vec(), b"cdef");
        assert!(packet.move_head(-4, 0));
        assert_eq!(packet.to_vec(), b"\0\0abcdef");
        assert!(!packet.move_head(-7, 0) && !packet.move_head(9, 0) && !packet.move_head(6, 3));
        assert!(packet.set_len(12, false) && !packet.set_len(13, false));
        assert!(packet.set_len(300, true));
        assert_eq!(&packet.to_vec()[..8], b"\0\0abcdef");
    }

    #[test]
    fn bytes_are_inserted_and_removed_inside() {
        let mut packet = Packet::new(b"abcdef", 2, 0);
        assert!(packet.resize_at(3, 2));
        assert_eq!(packet.to_vec(), b"abc\0\0def");
        assert!(packet.resize_at(3, 300));
        assert!(packet.resize_at(3, -302));
        assert_eq!(packet.to_vec(), b"abcdef");
        assert!(!packet.resize_at(4, -3) && !packet.resize_at(7, 1));
    }

    #[test]
    fn loads_are_big_endian_and_bounded() {
        let packet = Packet::new(&[1, 2, 3, 4], 0, 0);
        assert_eq!(packet.load(1, Size::H), Some(0x0203));
        assert_eq!(packet.load(1, Size::W), None);
        assert_eq!(packet.load(-1, Size::B), None);
    }
}

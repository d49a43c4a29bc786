//! Sockets in maps: `sockmap`, `sockhash`, `reuseport_sockarray`. Elements and their errno; delivery is the host's.

use std::any::Any;

use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::array::next_index;
use crate::hash::admit;
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::object::{Object, Socket, SocketKind};
use crate::prog_array::{Places, place};
use crate::retire::Objects;

enum Sockets {
    Array(Places<Socket>),
    Hash(Objects<Socket>),
}

/// A map of sockets.
pub struct SocketMap {
    head: Head,
    places: Sockets,
}

impl SocketMap {
    pub(crate) fn array(head: Head) -> Result<SocketMap, MapError> {
        Ok(SocketMap { places: Sockets::Array(Places::new(head.spec().max_entries)?), head })
    }

    /// Over a hash table with the same keys and values of 8 bytes.
    pub(crate) fn hash(head: Head, table: Box<dyn Map>) -> SocketMap {
        SocketMap { head, places: Sockets::Hash(Objects::new(table)) }
    }

    /// The socket under `key`.
    pub fn socket(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<Socket> {
        match &self.places {
            Sockets::Array(places) => place(places, key)?.get(),
            Sockets::Hash(objects) => objects.with(cx, key, Socket::clone),
        }
    }

    fn is_reuseport(&self) -> bool {
        self.head.spec().kind == MapKind::ReuseportSockarray
    }

    fn admitted(&self, socket: Socket) -> Result<Socket, MapError> {
        let internet = matches!(socket.family, SocketKind::Tcp | SocketKind::Udp);
        match self.is_reuseport() {
            true if !internet => Err(Errno::ENOTSUPP.into()),
            true if !socket.reuseport => Err(Errno::EINVAL.into()),
            false if !socket.ready || socket.family == SocketKind::Xsk => Err(Errno::EOPNOTSUPP.into()),
            true | false => Ok(socket),
        }
    }
}

impl Map for SocketMap {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    /// Values are descriptors, and who has one calls [`Map::update_object`]: here come numbers that are none.
    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        let number = value.first_u64().or(value.first_u32().map(u64::from)).unwrap_or(0);
        match self.update_object(cx, key, &Object::Closed, flags) {
            Err(error) if error.errno() == Errno::EBADF && number > i32::MAX as u64 => Err(Errno::EINVAL.into()),
            done => done,
        }
    }

    fn update_object(&self, cx: &RunCx, key: KeyRef<'_>, object: &Object, flags: UpdateFlags) -> Result<(), MapError> {
        if self.is_reuseport()
            && let Sockets::Array(places) = &self.places
        {
            if flags > update::EXIST {
                return Err(Errno::EINVAL.into());
            }
            let place = place(places, key).ok_or(Errno::E2BIG)?;
            // What is there comes before what kind of socket is asked for.
            if matches!(object, Object::Socket(_)) {
                admit(!place.is_empty(), flags)?;
            }
        }
        let socket = match object {
            Object::Closed => return Err(Errno::EBADF.into()),
            Object::Socket(socket) => self.admitted(*socket)?,
            _ => return Err(Errno::ENOTSOCK.into()),
        };
        if flags > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        match &self.places {
            Sockets::Array(places) => {
                let place = place(places, key).ok_or(Errno::E2BIG)?;
                admit(!place.is_empty(), flags)?;
                place.swap(Some(socket));
                Ok(())
            }
            Sockets::Hash(objects) => objects.put(cx, key, socket, flags),
        }
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        match &self.places {
            Sockets::Array(places) => {
                let (outside, empty) =
                    if self.is_reuseport() { (Errno::E2BIG, Errno::ENOENT) } else { (Errno::EINVAL, Errno::EINVAL) };
                let removed = place(places, key).ok_or(outside)?.swap(None);
                if removed { Ok(()) } else { Err(empty.into()) }
            }
            Sockets::Hash(objects) => objects.remove(cx, key),
        }
    }

    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        match &self.places {
            Sockets::Array(_) => next_index(key, self.head.spec().max_entries, out),
            Sockets::Hash(objects) => objects.next_key(cx, key, out),
        }
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        // What user space gets is a cookie, and that takes 8 bytes.
        if self.head.spec().value_size != 8 {
            return Err(Errno::ENOSPC.into());
        }
        let socket = self.socket(cx, key).ok_or(Errno::ENOENT)?;
        out.extend_from_slice(&socket.cookie.to_le_bytes());
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

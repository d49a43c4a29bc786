//! Linux error numbers, as helpers and `bpf(2)` return them.

use std::fmt;

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// An error number of Linux. 524 (`ENOTSUPP`) is the kernel's internal one, distinct from 95 (`EOPNOTSUPP`).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(i32)]
        #[allow(missing_docs)]
        #[non_exhaustive]
        pub enum Errno { $($name = $number,)* }

        impl Errno {
            /// Every number this build knows.
            pub const ALL: &[Errno] = &[$(Errno::$name,)*];

            /// Its symbol, `"EINVAL"`.
            pub const fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name),)* }
            }

            /// What it says, lower case.
            pub const fn text(self) -> &'static str {
                match self { $(Errno::$name => $text,)* }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such entry";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too big";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "already exists";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    ENOSPC = 28, "no space left";
    ERANGE = 34, "out of range";
    EDEADLK = 35, "would deadlock";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "not implemented";
    ELOOP = 40, "too many levels";
    ENODATA = 61, "no data";
    EPROTO = 71, "protocol error";
    EOVERFLOW = 75, "value too large";
    EBADFD = 77, "descriptor in bad state";
    ENOTSOCK = 88, "not a socket";
    EMSGSIZE = 90, "message too long";
    EPROTONOSUPPORT = 93, "protocol not supported";
    EOPNOTSUPP = 95, "operation not supported";
    EAFNOSUPPORT = 97, "address family not supported";
    EADDRINUSE = 98, "address in use";
    ENETUNREACH = 101, "network unreachable";
    ENOBUFS = 105, "no buffer space";
    ETIMEDOUT = 110, "timed out";
    ESTALE = 116, "stale handle";
    ENOTSUPP = 524, "operation not supported (kernel-internal)";
}

impl Errno {
    /// The positive number.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// What a helper returns: the negated number in R0.
    pub const fn as_ret(self) -> u64 {
        (-(self as i32) as i64) as u64
    }

    /// The symbol with this positive number.
    pub fn from_number(number: i32) -> Option<Errno> {
        Errno::ALL.iter().copied().find(|e| e.number() == number)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.text())
    }
}

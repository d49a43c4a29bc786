//! Files as a user names them, with errors that say what to do.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It does not exist.
    #[error("{path}: no such file; check the path", path = path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{path}: is a directory; name a file in it", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// It has no bytes.
    #[error("{path}: file is empty", path = path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Bytes written as hexadecimal digits are not.
    #[error("`{text}` is not a hexadecimal byte string ({source}); two digits a byte, or @FILE")]
    Hex {
        /// As given, shortened.
        text: String,
        /// Why.
        source: hex::FromHexError,
    },
}

/// Reads a whole file; `-` is standard input.
pub fn read(path: &Path) -> Result<Vec<u8>, InputError> {
    let named = || path.to_path_buf();
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    match bytes {
        Ok(bytes) if bytes.is_empty() => Err(InputError::Empty { path: named() }),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => InputError::Missing { path: named() },
            io::ErrorKind::IsADirectory => InputError::Directory { path: named() },
            _ => InputError::Io { path: named(), source: error },
        }),
    }
}

/// Bytes of an option: hexadecimal digits (white space allowed), or `@FILE`.
pub fn bytes(text: &str) -> Result<Vec<u8>, InputError> {
    if let Some(path) = text.strip_prefix('@') {
        return read(Path::new(path));
    }
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    hex::decode(digits).map_err(|source| InputError::Hex { text: text.chars().take(40).collect(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_digits_or_a_file() {
        assert_eq!(bytes("00 ff0a").unwrap(), [0, 0xff, 0x0a]);
        assert_eq!(bytes("0xff").unwrap(), [0xff]);
        assert!(matches!(bytes("abc"), Err(InputError::Hex { .. })));
        assert!(matches!(bytes("@/no/such/file"), Err(InputError::Missing { .. })));
    }

    #[test]
    fn what_is_no_file_says_so() {
        assert!(matches!(read(&std::env::temp_dir()), Err(InputError::Directory { .. })));
        assert!(matches!(read(Path::new("/dev/null")), Err(InputError::Empty { .. })));
    }
}

//! What ends a command early: one line that says what, where, and what to do.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::capture::CaptureError;
use crate::input::InputError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A capture could not be read or written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Standard output is gone or full.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// Text was wanted.
    #[error("{path}: not UTF-8 text", path = path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
    },
    /// The assembler refused a line.
    #[error("{path}:{line}:{column}: {what}", path = path.display())]
    Assembly {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
        /// The assembler's words.
        what: String,
    },
    /// The bytes are no program.
    #[error("{path}: {what}", path = path.display())]
    Program {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The object cannot be loaded.
    #[error("{path}: {source}", path = path.display())]
    Object {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with section and offset.
        source: Box<rtbpf::loader::Error>,
    },
    /// Setting up failed.
    #[error("{path}: {source}", path = path.display())]
    Load {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: Box<rtbpf::Error>,
    },
    /// An option's value cannot be used.
    #[error("{option}: {what}")]
    Option {
        /// The option.
        option: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The answer is no, and was already printed.
    #[error("refused")]
    Refused,
}

impl Error {
    /// Prints itself to standard error, unless the reader of standard output simply left; answers the exit status.
    pub fn report(self) -> ExitCode {
        match self {
            // What `head` does to its writers: end quietly, as a process killed by SIGPIPE (13) would.
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(128 + 13),
            Error::Refused => ExitCode::FAILURE,
            error => {
                eprintln!("rtbpf: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

//! A program on the engine that runs it.

use rtbpf::{Ctx, Error, Executable, Native, Session, Threaded};

/// A program that is ready to run.
pub enum Loaded {
    Checked(Executable),
    Threaded(Threaded),
    Native(Native),
}

impl Loaded {
    pub fn executable(&self) -> &Executable {
        match self {
            Loaded::Checked(program) => program,
            Loaded::Threaded(program) => program.executable(),
            Loaded::Native(program) => program.executable(),
        }
    }

    pub fn run(&self, session: &mut Session, ctx: &mut Ctx) -> Result<u64, Error> {
        match self {
            Loaded::Checked(program) => program.run(session, ctx),
            Loaded::Threaded(program) => program.run(session, ctx),
            Loaded::Native(program) => program.run(session, ctx),
        }
    }
}

//! What the machine's own tests share.

use std::sync::Arc;

use rtbpf_btf::{Btf, Builder, Linkage};
use rtbpf_isa::{Program, asm, decode};

/// The program that `text` is.
#[track_caller]
pub(crate) fn program(text: &str) -> Program {
    let assembly = asm::assemble(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    decode(&assembly.slots).expect("the test's program decodes")
}

/// Describes each subprogram as `static int f(void)`: Linux takes callbacks of described programs only.
pub(crate) fn describe(program: &mut Program) -> Arc<Btf> {
    let mut types = Builder::new();
    let int = types.int("int", 4, true);
    let proto = types.func_proto(int, &[]);
    let function = types.func("f", proto, Linkage::Static);
    program.subprogs_mut().iter_mut().for_each(|subprog| subprog.btf_id = function.0);
    Arc::new(types.build().expect("the test's types are few"))
}

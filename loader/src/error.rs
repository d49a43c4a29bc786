//! What can be wrong with an object.

use rtbpf_isa::DecodeError;

/// Why an object does not load. Offsets are in bytes: of the file where no section is named, else of the section.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No ELF magic.
    #[error("not an ELF file (starts with {start:02x?}); give an object made by clang -target bpf")]
    NotElf {
        /// The first bytes, at most four.
        start: Vec<u8>,
    },
    /// 32-bit ELF.
    #[error("32-bit ELF file; BPF objects are 64-bit (clang -target bpf makes them)")]
    Class32,
    /// Big-endian.
    #[error("big-endian BPF object; rebuild it with clang -target bpfel")]
    BigEndian,
    /// A Solana program.
    #[error("Solana sBPF program (ELF machine {machine:#x}); its instruction set is another one")]
    Solana {
        /// `e_machine`.
        machine: u16,
    },
    /// Another machine.
    #[error("ELF file for machine {machine} (must be 247, BPF); rebuild it with clang -target bpf")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// A linked executable or library.
    #[error("ELF type {kind} (must be 1, relocatable); load the .o file, not a linked one")]
    NotRelocatable {
        /// `e_type`.
        kind: u16,
    },
    /// The file ends early.
    #[error("{what} at byte {offset:#x} needs {need} bytes, the file has {have} bytes; it is truncated or damaged")]
    Truncated {
        /// What should be there.
        what: String,
        /// Where it starts.
        offset: u64,
        /// Bytes it takes.
        need: u64,
        /// Bytes in the file.
        have: u64,
    },
    /// Something in the file's tables contradicts itself.
    #[error("damaged ELF file: {what} {index}: {why}")]
    Damaged {
        /// Which table.
        what: &'static str,
        /// Which entry.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// More than any real object has.
    #[error("{what}: more than {limit}; the object is damaged or hostile")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A section with contents that it should not have.
    #[error("section {section} at {offset:#x}: {why}")]
    Section {
        /// The section.
        section: String,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A symbol that does not fit its section.
    #[error("section {section} at {offset:#x}: symbol {symbol}: {why}")]
    Symbol {
        /// The symbol.
        symbol: String,
        /// The section it lies in.
        section: String,
        /// Its value.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A relocation that cannot be applied.
    #[error("section {section} at {offset:#x}: relocation type {kind} against {symbol}: {why}")]
    Reloc {
        /// The section with the instruction or data.
        section: String,
        /// Where in it.
        offset: u64,
        /// Relocation type.
        kind: u32,
        /// The symbol's name.
        symbol: String,
        /// What is wrong.
        why: String,
    },
    /// A program reaches a symbol that nobody defines.
    #[error(
        "section {section} at {offset:#x}: {symbol} is defined nowhere; join the object that defines it, or give the \
         BTF and symbols of a kernel that has it"
    )]
    Undefined {
        /// The section with the instruction.
        section: String,
        /// Where in it.
        offset: u64,
        /// The symbol's name.
        symbol: String,
    },
    /// A CO-RE relocation on an instruction that cannot take it.
    #[error("section {section} at {offset:#x}: CO-RE relocation of {access}: {why}")]
    Core {
        /// The section with the instruction.
        section: String,
        /// Where in it.
        offset: u64,
        /// What it accesses.
        access: String,
        /// What is wrong.
        why: String,
    },
    /// A map definition that is none.
    #[error("map {map}: {why}")]
    Map {
        /// The map.
        map: String,
        /// What is wrong.
        why: String,
    },
    /// An extern that nobody provides.
    #[error("extern {name}: {why}")]
    Extern {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A variable, program or map that the object does not have, or bytes that do not fit it.
    #[error("no {what} {name}: {why}")]
    NoSuch {
        /// What was asked for.
        what: &'static str,
        /// By which name.
        name: String,
        /// What there is.
        why: String,
    },
    /// Bad BTF.
    #[error("section {section}: {source}")]
    Btf {
        /// `.BTF` or `.BTF.ext`.
        section: &'static str,
        /// What is wrong.
        source: rtbpf_btf::Error,
    },
    /// Instructions that do not decode.
    #[error("program {program}: {source}")]
    Decode {
        /// The program.
        program: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// Objects that do not go together.
    #[error("joining objects: {name}: {why}")]
    Join {
        /// Symbol, map or section.
        name: String,
        /// What is wrong.
        why: String,
    },
}

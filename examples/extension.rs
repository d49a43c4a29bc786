//! A safe extension point: programs get a record and may call one function of the host.
//! `cargo run -p rtbpf-examples --bin extension`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtbpf::abi::ProgType;
use rtbpf::isa::{asm, decode};
use rtbpf::verifier::Assumptions;
use rtbpf::{Config, Ctx, Engine, HelperCx};

/// Reports records whose first word is above 100; r1 points to the record.
const POLICY: &str = "
    r6 = *(u32 *)(r1 + 0)
    r0 = 0
    if r6 <= 100 goto out
    r1 = r6
    call report
    r0 = 1
out:
    exit
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let total = Arc::new(AtomicU64::new(0));
    let seen = total.clone();
    // Every record has four bytes: programs may read them without a test, and shorter ones do not come in.
    let mut engine = Engine::new(Config { plain_ctx_bytes: 4, ..Config::default() });
    engine.helper("report", move |_: &mut HelperCx, amount: u64| seen.fetch_add(amount, Ordering::Relaxed) + amount)?;

    let by_name = |name: &str| engine.helper_id(name).map(|id| id.0 as i32);
    let slots = asm::assemble_with(POLICY, &by_name)?.slots;
    let given = Assumptions { plain_ctx_bytes: 4, ..Assumptions::new(ProgType::Plain) };
    let program = engine.bind_threaded(engine.verify(decode(&slots)?, given.clone())?, vec![])?;

    let mut session = engine.session(0);
    for amount in [7u32, 150, 99, 1000] {
        let refused = program.run(&mut session, &mut Ctx::plain(&amount.to_le_bytes()))?;
        println!("{amount}: {}", if refused == 1 { "reported" } else { "fine" });
    }
    println!("total reported: {}", total.load(Ordering::Relaxed));

    let short = program.run(&mut session, &mut Ctx::plain(&[1, 2]));
    println!("short record: {}", short.err().ok_or("the program reads four bytes")?);

    // A program that calls the function without its argument is refused before it runs.
    let careless = asm::assemble_with("r1 = 1\ncall report\ncall report\nexit", &by_name)?.slots;
    let refused = engine.verify(decode(&careless)?, given);
    println!("careless program: {}", refused.err().ok_or("the second call has no argument")?);
    Ok(())
}

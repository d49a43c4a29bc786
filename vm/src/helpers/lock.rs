//! Spin locks in values (bpf-helpers(7)).

use rtbpf_abi::frame::FaultCode;
use rtbpf_rt::lock::{Class, Lock};

use super::native::Cx;

pub(crate) fn lock(cx: &mut Cx<'_>) -> u64 {
    let (word, run) = (cx.arg(1), cx.run_cx());
    match cx.spin_lock(1).map(|lock| lock.acquire(&run, Class::Value)) {
        Some(Ok(())) => cx.host().locks.push(word),
        // Linux would hang here. No verified program takes a lock twice; the run ends.
        Some(Err(_)) | None => cx.frame().fault = FaultCode::Deadline,
    }
    0
}

pub(crate) fn unlock(cx: &mut Cx<'_>) -> u64 {
    let word = cx.arg(1);
    // A program that nobody verified may give back what it does not hold.
    let held = cx.host().locks.iter().rposition(|held| *held == word);
    if let Some(at) = held
        && let Some(lock) = cx.spin_lock(1)
    {
        cx.host().locks.remove(at);
        lock.release();
    }
    0
}

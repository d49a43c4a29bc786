//! Timers (bpf-helpers(7)); see [`crate::timers`].

use rtbpf_abi::Errno;
use rtbpf_isa::InsnIdx;

use super::native::{Cx, word_at};
use super::{status, value};
use crate::run::Host;
use crate::timers::Callback;

pub(crate) fn init(cx: &mut Cx<'_>) -> u64 {
    let (word, map, flags) = (cx.word(1).ok_or(Errno::EINVAL), cx.map_ref(2), cx.arg(3));
    status(word.and_then(|word| cx.host().engine().timers.init(word, &map?, flags)))
}

/// A step of the engine, which knows where a callback begins. `timer` is an address that an engine vouches for.
pub(crate) fn set_callback(host: &Host, timer: u64, at: InsnIdx) -> u64 {
    let (Some(program), Some(word)) = (host.current().map(|program| program.me.clone()), word_at(timer)) else {
        return Errno::EINVAL.as_ret();
    };
    status(host.engine().timers.set_callback(word, Callback { program, at }))
}

pub(crate) fn start(cx: &mut Cx<'_>) -> u64 {
    let (word, ns, flags) = (cx.word(1).ok_or(Errno::EINVAL), cx.arg(2), cx.arg(3));
    let engine = cx.host().engine();
    status(word.and_then(|word| engine.timers.start(word, &*engine.config.world.clock, ns, flags)))
}

pub(crate) fn cancel(cx: &mut Cx<'_>) -> u64 {
    let word = cx.word(1).ok_or(Errno::EINVAL);
    let host = cx.host();
    value(word.and_then(|word| host.engine().timers.cancel(word, host.timer)).map(u64::from))
}

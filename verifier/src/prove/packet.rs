//! The packet: bytes that a comparison with its end has shown to be there.

use rtbpf_abi::ProgType;

use super::Target;
use crate::explore::Walk;
use crate::reject::{Checked, refuse};
use crate::value::Kind;

impl Walk<'_> {
    /// The access lies in the checked bytes.
    pub(crate) fn packet_access(&self, target: &Target, zero: bool) -> Checked {
        let r = target.r();
        let range = match target.pointer.kind {
            Kind::Packet(range) | Kind::PacketMeta(range) => range,
            _ => 0,
        };
        if target.pointer.num.smin() < 0 {
            return refuse!(
                PacketBounds,
                EACCES,
                "R{r} min value is negative, either use unsigned index or do a if (index >=0) check."
            );
        }
        if range < 0 {
            return refuse!(PacketBounds, EINVAL, "R{r} offset is outside of the packet");
        }
        let off = target.fixed();
        let fits = off >= 0 && (target.size > 0 || zero) && off as i64 + target.size as i64 <= range as i64;
        if !fits {
            return refuse!(PacketBounds, EACCES, "R{r} offset is outside of the packet");
        }
        Ok(())
    }

    /// Whether programs of this type may write the packet.
    pub(crate) fn may_write_packet(&self) -> bool {
        use ProgType as P;
        matches!(
            self.given.prog_type,
            P::SchedCls | P::SchedAct | P::Xdp | P::LwtXmit | P::SkSkb | P::SkMsg | P::CgroupSockopt
        )
    }
}

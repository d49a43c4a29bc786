//! The gate between what a proof assumed and what is bound.

use rtbpf_maps::MapRef;
use rtbpf_verifier::Assumptions;

use crate::error::Error;

/// Checks that the live maps are what the program was verified with, field by field.
pub(crate) fn check_maps(given: &Assumptions, maps: &[MapRef]) -> Result<(), Error> {
    for (index, assumed) in given.maps.iter().enumerate() {
        let Some(live) = maps.get(index) else {
            return Err(Error::MapDiffers { map: index, what: "number of maps" });
        };
        let live = live.spec();
        let differences = [
            ("kind", live.kind != assumed.kind),
            ("key size", live.key_size != assumed.key_size),
            ("value size", live.value_size != assumed.value_size),
            ("capacity", live.max_entries != assumed.max_entries),
            ("flags", live.flags != assumed.flags),
            ("inner map", live.inner.is_some() != assumed.inner.is_some()),
            ("special fields", live.fields != assumed.fields),
        ];
        if let Some((what, _)) = differences.into_iter().find(|(_, differs)| *differs) {
            return Err(Error::MapDiffers { map: index, what });
        }
    }
    Ok(())
}

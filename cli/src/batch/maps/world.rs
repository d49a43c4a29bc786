//! What the steps of a case act on: named maps, programs, types and sockets, and the descriptors that stand for them.

use std::collections::HashMap;
use std::sync::Arc;

use rtbpf::abi::map_rules::Creator;
use rtbpf::abi::{Errno, MapKind, Policy};
use rtbpf::ctx::DEVICES;
use rtbpf::maps::control::Mapping;
use rtbpf::maps::redirect::Targets;
use rtbpf::maps::{CreateCx, MapRef, Object, Socket, SocketKind};
use rtbpf::verifier::Profile;
use rtbpf_btf::Btf;
use serde_json::Value;

use super::super::{ModelKind, Options, ProfileKind};
use super::progs::Programs;

/// The descriptors that every process starts with: input, output, errors.
const STANDARD: u32 = 3;
/// No more descriptors than this are open in a case.
const MOST: u32 = 64;

/// A named thing.
#[derive(Clone)]
pub(crate) enum Named {
    Map(MapRef),
    Btf(Arc<Btf>),
    Object(Object),
}

/// The network devices of the machine: those that test runs have.
struct Devices;

impl Targets for Devices {
    fn has_device(&self, ifindex: u32) -> bool {
        DEVICES.contains(&ifindex)
    }
}

/// See the module's head.
pub(crate) struct World {
    names: HashMap<String, Named>,
    /// Name of what each descriptor from [`STANDARD`] on stands for.
    descriptors: Vec<String>,
    /// Mappings that live until `munmap` or the end of the case.
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) cpus: u32,
    pub(crate) privileged: bool,
    pub(crate) programs: Programs,
}

impl World {
    pub(crate) fn of(case: &Value, options: &Options) -> World {
        let text = |name: &str| case.get(name).and_then(Value::as_str).unwrap_or_default();
        let possible = case.get("possible_cpus").and_then(Value::as_u64).and_then(|cpus| u32::try_from(cpus).ok());
        let cpus = options.cpus.or(possible).unwrap_or(2).clamp(1, 1024);
        let mut names = HashMap::new();
        let mut object = |name: &str, object: Object| names.insert(name.to_string(), Named::Object(object));
        let socket = |cookie: u64, family: SocketKind| Socket { cookie, family, ready: false, reuseport: false };
        let tcp = Object::Socket(socket(1, SocketKind::Tcp));
        object("sock", tcp.clone());
        object("tcp", tcp.clone());
        object("udp", Object::Socket(socket(2, SocketKind::Udp)));
        object("bad", Object::Closed);
        // The owner that a storage case acts on depends on the kind of storage.
        let owner = match text("group") {
            group if group.contains("task_storage") => Object::Task(1),
            group if group.contains("inode_storage") => Object::Inode(1),
            group if group.contains("cgrp_storage") => Object::Cgroup(1),
            _ => tcp,
        };
        object("o", owner);
        let model = match options.model {
            ModelKind::Nonrt => rtbpf::Model::NonRt,
            ModelKind::Rt => rtbpf::Model::Rt,
        };
        let profile = match options.profile {
            ProfileKind::Compat => Profile::Compat,
            ProfileKind::Strict => Profile::Strict,
        };
        let policy = Policy::named(&options.policy).unwrap_or(Policy::V6_18);
        World {
            names,
            descriptors: Vec::new(),
            mappings: Vec::new(),
            cpus,
            privileged: matches!(text("cred"), "" | "root"),
            programs: Programs::new(cpus, model, profile, policy),
        }
    }

    /// How maps are created for this caller.
    pub(crate) fn create_cx(&self) -> CreateCx {
        CreateCx {
            creator: if self.privileged { Creator::ROOT } else { Creator::NOBODY },
            targets: Arc::new(Devices),
            ..CreateCx::new(self.cpus)
        }
    }

    /// Lets go of the descriptor that keeps run statistics on.
    pub(crate) fn end_stats(&mut self) {
        self.programs.stats = false;
    }

    pub(crate) fn insert(&mut self, name: &str, named: Named) {
        self.names.insert(name.to_string(), named);
        self.descriptors.push(name.to_string());
    }

    pub(crate) fn btf(&self, name: &str) -> Option<Arc<Btf>> {
        match self.names.get(name)? {
            Named::Btf(btf) => Some(btf.clone()),
            Named::Map(_) | Named::Object(_) => None,
        }
    }

    /// The map that a descriptor stands for: EBADF when it is closed, EINVAL when it is something else.
    pub(crate) fn map(&self, name: &str) -> Result<MapRef, Errno> {
        match self.names.get(name) {
            Some(Named::Map(map)) => Ok(map.clone()),
            Some(Named::Object(Object::Closed)) | None => Err(Errno::EBADF),
            Some(Named::Object(_) | Named::Btf(_)) => Err(Errno::EINVAL),
        }
    }

    /// What the descriptor of this name stands for.
    pub(crate) fn object(&self, name: &str) -> Object {
        match self.names.get(name) {
            Some(Named::Map(map)) => Object::Map(map.clone()),
            Some(Named::Object(object)) => object.clone(),
            Some(Named::Btf(_)) => Object::Other(u64::MAX),
            None => Object::Closed,
        }
    }

    /// The number of the descriptor of this name.
    pub(crate) fn descriptor(&self, name: &str) -> u32 {
        let at = self.descriptors.iter().rposition(|known| known == name);
        at.map_or(STANDARD, |at| STANDARD + at as u32)
    }

    /// What descriptor `number` stands for, as a value of a map of `kind`.
    pub(crate) fn by_number(&self, number: u64, kind: MapKind) -> Object {
        let sockets = matches!(
            kind,
            MapKind::Sockmap | MapKind::Sockhash | MapKind::ReuseportSockarray | MapKind::Xskmap | MapKind::SkStorage
        );
        match u32::try_from(number) {
            Ok(number) if number < STANDARD => Object::Other(u64::from(number) + 100),
            Ok(number) if number < MOST => match self.descriptors.get((number - STANDARD) as usize) {
                Some(name) => self.object(name),
                // A case about sockets has one open behind its maps.
                None if sockets => self.object("sock"),
                None => Object::Closed,
            },
            _ => Object::Closed,
        }
    }
}

//! An object come to life: its maps made and filled, its programs verified and bound.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use rtbpf_abi::{Errno, MapSpec};
use rtbpf_isa::Program;
use rtbpf_loader::{InitialTarget, MapDef, Object, ProgramSpec};
use rtbpf_maps::{CreateCx, MapError, MapRef, Object as MapObject, control, create, update};
use rtbpf_rt::{Model, RunCx};
use rtbpf_verifier::{Assumptions, Options, VerifiedProgram, verify};

use crate::bind;
use crate::engine::Engine;
use crate::error::Error;
use crate::executable::Executable;
use crate::unchecked::{Code, Unchecked};

/// Whether programs must be proved before they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Proof {
    /// What the verifier refuses does not load.
    #[default]
    Required,
    /// Programs run without a proof, in the checked interpreter.
    Waived,
}

/// The maps and programs of one object.
///
/// Maps exist from the start; a program is verified and bound when it is first asked for.
pub struct Instance {
    engine: Engine,
    object: Object,
    maps: Vec<MapRef>,
    /// Maps that were there before, by index.
    shared: BTreeMap<usize, MapRef>,
    proof: Proof,
    loaded: BTreeMap<String, Executable>,
}

impl Instance {
    /// Makes the object's maps and fills them: variables, inner maps, and the programs of its program arrays.
    ///
    /// Fails when a map cannot be made, or a program that an array names cannot be loaded.
    pub fn new(engine: &Engine, object: Object, proof: Proof) -> Result<Instance, Error> {
        Instance::with_maps(engine, object, proof, &[])
    }

    /// The same, with maps that exist already in the place of the object's, by name: those of an older version whose state
    /// lives on, or of another object. They stay as they are; what the object would put into them it does not.
    ///
    /// Fails when a map differs from what the object says of it in more than its name.
    pub fn with_maps(
        engine: &Engine,
        object: Object,
        proof: Proof,
        shared: &[(&str, MapRef)],
    ) -> Result<Instance, Error> {
        let shared = placed(&object, shared)?;
        let (engine, maps, loaded) = (engine.clone(), Vec::new(), BTreeMap::new());
        let mut instance = Instance { engine, object, maps, shared, proof, loaded };
        instance.make_maps()?;
        instance.fill_maps()?;
        Ok(instance)
    }

    /// The engine it lives on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the file says.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The maps, in the object's order.
    pub fn maps(&self) -> &[MapRef] {
        &self.maps
    }

    /// The map with this name.
    pub fn map(&self, name: &str) -> Option<&MapRef> {
        self.maps.get(self.object.map(name)?)
    }

    /// The program with this name (or in the section of this name), loading it if it is not yet.
    pub fn program(&mut self, name: &str) -> Result<Executable, Error> {
        if let Some(executable) = self.loaded.get(name) {
            return Ok(executable.clone());
        }
        let spec = self.object.program(name).ok_or_else(|| self.no_program(name))?;
        let program = self.object.link(spec)?;
        let given = self.assumptions(spec);
        let executable = match self.proof {
            Proof::Waived => self.engine.bind_unverified(program, given, self.maps.clone())?,
            Proof::Required => self.engine.bind(self.engine.verify(program, given)?, self.maps.clone())?,
        };
        self.loaded.insert(name.to_string(), executable.clone());
        Ok(executable)
    }

    /// The same program as native code. Always proved: native code does not check.
    ///
    /// The programs of the object's program arrays become native code with it, as an engine without checks tail-calls only
    /// its own.
    #[cfg(feature = "jit")]
    pub fn native(&mut self, name: &str) -> Result<crate::Native, Error> {
        self.unchecked(name)
    }

    /// The same program for the threaded interpreter, which every machine has; all else as [`Instance::native`] does it.
    pub fn threaded(&mut self, name: &str) -> Result<crate::Threaded, Error> {
        self.unchecked(name)
    }

    fn unchecked<C: Code>(&mut self, name: &str) -> Result<Unchecked<C>, Error> {
        for (at, key, target) in self.initial_entries() {
            if let InitialTarget::Program(name) = target {
                let program = self.bind_proved::<C>(&name)?.executable().as_prog();
                self.put(at, key, MapObject::Prog(program))?;
            }
        }
        self.bind_proved(name)
    }

    fn bind_proved<C: Code>(&self, name: &str) -> Result<Unchecked<C>, Error> {
        let spec = self.object.program(name).ok_or_else(|| self.no_program(name))?;
        C::bind(&self.engine, self.verify(spec)?, self.maps.clone())
    }

    fn no_program(&self, name: &str) -> Error {
        let known = self.object.programs.iter().map(|spec| spec.name.clone()).collect();
        Error::NoSuchProgram { name: name.to_string(), known }
    }

    /// Verifies a program without binding it.
    pub fn verify(&self, spec: &ProgramSpec) -> Result<VerifiedProgram, Error> {
        self.engine.verify(self.object.link(spec)?, self.assumptions(spec))
    }

    /// What a program of the object is verified under.
    pub fn assumptions(&self, spec: &ProgramSpec) -> Assumptions {
        let config = self.engine.config();
        Assumptions {
            attach_type: spec.attach_type,
            gpl: rtbpf_abi::license::is_gpl_compatible(&self.object.license),
            sleepable: spec.sleepable(),
            prog_flags: spec.flags,
            maps: self.maps.iter().map(|map| Arc::new(assumed(map))).collect(),
            helpers: self.engine.custom_helpers(),
            kfuncs: self.object.kfuncs.iter().map(|kfunc| (kfunc.id, kfunc.name.clone())).collect(),
            cpus: config.slots,
            policy: config.policy,
            btf: self.object.btf.clone(),
            plain_ctx_bytes: config.plain_ctx_bytes,
            ..Assumptions::new(spec.prog_type)
        }
    }

    /// The bytes of a global variable, as they are now.
    pub fn variable(&self, name: &str) -> Result<Vec<u8>, Error> {
        let (map, range) = self.place_of(name)?;
        let mut value = Vec::new();
        map.read(&RunCx::CONTROL, &FIRST, 0, &mut value).map_err(|error| self.map_error(name, error))?;
        value.get(range).map(<[u8]>::to_vec).ok_or_else(|| self.map_error(name, Errno::EFAULT.into()))
    }

    /// Overwrites a global variable; shorter bytes are padded with zeroes. Variables beside it keep what programs write
    /// to them meanwhile.
    ///
    /// Constants (`.rodata`) cannot be changed any more: set those with
    /// [`Object::set_variable`](rtbpf_loader::Object::set_variable) before the instance is made.
    pub fn set_variable(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (map, range) = self.place_of(name)?;
        if bytes.len() > range.len() || !map.spec().prog_writes() {
            return Err(self.map_error(name, Errno::EPERM.into()));
        }
        let mut padded = bytes.to_vec();
        padded.resize(range.len(), 0);
        let done = control::patch(&**map, &RunCx::CONTROL, &FIRST, range.start, &padded);
        done.map_err(|error| self.map_error(name, error))
    }

    fn place_of(&self, name: &str) -> Result<(&MapRef, std::ops::Range<usize>), Error> {
        let found = self.object.variable(name).and_then(|(section, variable)| {
            let start = variable.offset as usize;
            Some((self.maps.get(section.map)?, start..start + variable.size as usize))
        });
        found.ok_or_else(|| Error::NoSuchVariable {
            name: name.to_string(),
            known: self.object.data.iter().flat_map(|section| &section.variables).map(|v| v.name.to_string()).collect(),
        })
    }

    fn make_maps(&mut self) -> Result<(), Error> {
        let config = self.engine.config();
        for (at, def) in self.object.maps.iter().enumerate() {
            if let Some(map) = self.shared.get(&at) {
                self.maps.push(map.clone());
                continue;
            }
            let mut cx = CreateCx::new(config.slots);
            cx.sleeping_locks = config.model == Model::Rt;
            let map = create(&def.spec, &cx).map_err(|error| map_error(def, error))?;
            if let Some(contents) = &def.contents {
                let value = contents.as_ref().into();
                map.update(&RunCx::CONTROL, &FIRST, value, update::ANY).map_err(|error| map_error(def, error))?;
            }
            if def.spec.frozen.is_some() {
                control::freeze(&*map).map_err(|errno| map_error(def, errno.into()))?;
            }
            self.maps.push(map);
        }
        Ok(())
    }

    fn fill_maps(&mut self) -> Result<(), Error> {
        for (at, key, target) in self.initial_entries() {
            let object = match target {
                InitialTarget::Map(inner) => self.maps.get(inner).cloned().map(MapObject::Map),
                InitialTarget::Program(name) => Some(MapObject::Prog(self.program(&name)?.as_prog())),
            };
            if let Some(object) = object {
                self.put(at, key, object)?;
            }
        }
        Ok(())
    }

    /// What the object puts into its own maps of maps and programs: map, index, what.
    fn initial_entries(&self) -> Vec<(usize, u32, InitialTarget)> {
        (0..)
            .zip(&self.object.maps)
            .filter(|(at, _)| !self.shared.contains_key(at))
            .flat_map(|(at, def)| def.initial.iter().map(move |entry| (at, entry.key, entry.target.clone())))
            .collect()
    }

    fn put(&self, at: usize, key: u32, object: MapObject) -> Result<(), Error> {
        let Some((map, def)) = self.maps.get(at).zip(self.object.maps.get(at)) else { return Ok(()) };
        let done = map.update_object(&RunCx::CONTROL, &key.to_le_bytes(), &object, update::ANY);
        done.map_err(|error| map_error(def, error))
    }

    fn map_error(&self, name: &str, error: MapError) -> Error {
        Error::Map { map: name.to_string(), kind: "variable", source: error }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("object", &self.object.name)
            .field("loaded", &self.loaded)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Verifies a program by this engine's profile and policy, with its helpers.
    pub fn verify(&self, program: Program, mut given: Assumptions) -> Result<VerifiedProgram, Error> {
        given.helpers = self.custom_helpers();
        let options = Options { profile: self.config().profile, ..Options::default() };
        verify(program, given, &options).map_err(|rejection| Error::Rejected(Box::new(rejection)))
    }
}

/// The key of a data section's only value.
const FIRST: [u8; 4] = [0; 4];

/// Maps that were given by name, by their index in the object.
fn placed(object: &Object, shared: &[(&str, MapRef)]) -> Result<BTreeMap<usize, MapRef>, Error> {
    let known = || object.maps.iter().map(|def| def.name.clone()).collect();
    let place = |(name, map): &(&str, MapRef)| {
        let at = object.map(name).ok_or_else(|| Error::NoMapNamed { name: name.to_string(), known: known() })?;
        match object.maps.get(at).and_then(|def| bind::unlike(&def.spec, map)) {
            Some(what) => Err(Error::MapUnlike { map: name.to_string(), what }),
            None => Ok((at, map.clone())),
        }
    };
    shared.iter().map(place).collect()
}

fn assumed(map: &MapRef) -> MapSpec {
    control::assumed_spec(&**map, &RunCx::CONTROL)
}

fn map_error(def: &MapDef, error: MapError) -> Error {
    Error::Map { map: def.name.clone(), kind: def.spec.kind.name(), source: error }
}

/// A set of maps and programs in service, that can be swapped for another at once.
///
/// Runs that began on the old set end on it; it is freed when the last of them lets go.
///
/// ```
/// # use std::sync::Arc;
/// let live = rtbpf::Live::new(Arc::new("first"));
/// let held = live.get();
/// live.swap(Arc::new("second"));
/// assert_eq!((*held, *live.get()), ("first", "second"));
/// ```
#[derive(Debug)]
pub struct Live<T = Instance>(RwLock<Arc<T>>);

impl<T> Live<T> {
    /// Puts a set into service.
    pub fn new(set: Arc<T>) -> Live<T> {
        Live(RwLock::new(set))
    }

    /// The set in service now.
    pub fn get(&self) -> Arc<T> {
        // A poisoned lock still holds a whole set: nothing between lock and unlock can stop half-way.
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Puts another set into service; answers the old one.
    pub fn swap(&self, set: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()), set)
    }
}

//! The listening sockets of the process: who has them open, and what a new configuration does to them.
//!
//! Control keeps every socket open itself and gives workers duplicates. So a socket, with what waits in its queue, can go
//! from one worker to another, or to a successor of this process, and no connection is lost on the way.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use floodway_config::{Bind, Config, Listener};
use floodway_net::{
    BindError, Bound, Inherited, ListenOptions, Place, SocketFile, Transport, bind_ip, bind_ip_beside, bind_unix,
    set_access,
};

use crate::StartError;
use crate::translate;

/// Names one listening socket while the process lives.
pub(crate) type DoorId = u64;

/// A listening socket for a worker, and the listener that it belongs to.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) id: DoorId,
    pub(crate) listener: Arc<str>,
    pub(crate) place: Place,
    pub(crate) socket: OwnedFd,
    /// While it lives the address is ours.
    pub(crate) held: Weak<()>,
}

/// What makes two addresses the same socket: all that is fixed once it is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Ip {
        transport: Transport,
        address: String,
        port: u16,
        freebind: bool,
        transparent: bool,
        interface: Option<String>,
        mptcp: bool,
        fixed_buffers: (bool, bool),
    },
    Unix(std::path::PathBuf),
}

/// One address of one listener, bound.
struct Group {
    key: Key,
    listener: Arc<str>,
    /// As they were last set; `None` for sockets that somebody else opened.
    options: Option<ListenOptions>,
    bound: Bound,
    /// By socket: its number, and the worker that accepts from it.
    doors: Vec<(DoorId, usize)>,
    file: Option<SocketFile>,
    /// Whoever was left a socket to answer by sees from it when the address is given up.
    held: Arc<()>,
}

/// Every address that is bound.
#[derive(Default)]
pub(crate) struct Doors {
    groups: Vec<Group>,
    last: DoorId,
}

/// What workers are to be told.
#[derive(Default)]
pub(crate) struct Moves {
    /// To be opened, by worker. First.
    pub(crate) open: Vec<(usize, Door)>,
    /// To be left to another worker, by worker.
    pub(crate) leave: Vec<(usize, DoorId)>,
    /// To be closed, once what waits was taken, by worker. Last.
    pub(crate) close: Vec<(usize, DoorId)>,
    /// Socket files to be removed after that.
    pub(crate) files: Vec<SocketFile>,
}

/// Addresses that were bound for a new configuration and are not in use yet: dropped, nothing has happened.
#[derive(Default)]
pub(crate) struct Prepared {
    new: Vec<Group>,
}

impl Doors {
    /// Where everything listens, with the listener's name.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.groups.iter().map(|g| (&*g.listener, &g.bound.place))
    }

    /// Binds what `config` asks for and is not there yet, or takes it from what is `inherited`.
    ///
    /// # Errors
    /// Names the listener and the address that cannot be had; nothing new stays bound.
    pub(crate) fn prepare(
        &self,
        config: &Config,
        workers: usize,
        inherited: &mut Inherited,
    ) -> Result<Prepared, StartError> {
        let there: HashMap<&Key, &Group> = self.groups.iter().map(|g| (&g.key, g)).collect();
        let mut new = Vec::new();
        for listener in &config.listeners {
            for wanted in wanted(listener).filter(|w| !there.contains_key(&w.key)) {
                let failed = |error| StartError::Bind { listener: listener.name.clone(), error };
                let (bound, options, file) = match inherit(&wanted, &listener.name, workers, inherited) {
                    Some(inherited) => {
                        let (bound, file) = inherited.map_err(failed)?;
                        (bound, None, file)
                    }
                    None => {
                        let bound = self.open(&wanted, workers, inherited);
                        let bound = bound.map_err(failed)?;
                        let file = match &bound.place {
                            Place::Unix(path) => SocketFile::of(path),
                            Place::Tcp(..) | Place::Udp(..) => None,
                        };
                        (bound, Some(wanted.options), file)
                    }
                };
                let listener = listener.name.as_str().into();
                let held = Arc::new(());
                new.push(Group { key: wanted.key, listener, options, bound, doors: Vec::new(), file, held });
            }
        }
        Ok(Prepared { new })
    }

    fn open(&self, wanted: &Wanted<'_>, workers: usize, inherited: &Inherited) -> Result<Bound, BindError> {
        match wanted.bind {
            Bind::Ip { address, .. } => {
                let (transport, ip, port) = (wanted.transport, address.ip, wanted.port);
                match bind_ip(transport, ip, port, &wanted.options, workers) {
                    // In use by ourselves, perhaps: under a wider or a narrower address, or with another option.
                    Err(BindError::InUse(_)) if self.has_port(transport, port, inherited) => {
                        bind_ip_beside(transport, ip, port, &wanted.options, workers)
                    }
                    bound => bound,
                }
            }
            Bind::Unix { path, mode, group, backlog } => bind_unix(path, *mode, group.as_deref(), *backlog, workers),
        }
    }

    /// Whether `port` is ours at some address, or was our predecessor's.
    fn has_port(&self, transport: Transport, port: u16, inherited: &Inherited) -> bool {
        let mut places = self.groups.iter().map(|g| &g.bound.place).chain(inherited.left().map(|(_, place)| place));
        port != 0 && places.any(|place| place.of(transport).is_some_and(|(_, p)| p == port))
    }

    /// Puts what was prepared for `config` to use, lets go what it does not ask for, and deals all to `workers` workers.
    pub(crate) fn commit(&mut self, prepared: Prepared, config: &Config, workers: usize) -> Moves {
        let mut moves = Moves::default();
        let mut there: HashMap<Key, Group> = self.groups.drain(..).map(|g| (g.key.clone(), g)).collect();
        there.extend(prepared.new.into_iter().map(|g| (g.key.clone(), g)));
        for listener in &config.listeners {
            for wanted in wanted(listener) {
                let Some(mut group) = there.remove(&wanted.key) else { continue };
                if *group.listener != *listener.name {
                    // The socket stays; whoever accepts from it must know its new name.
                    group.listener = listener.name.as_str().into();
                    moves.leave.extend(group.doors.drain(..).map(|(id, worker)| (worker, id)));
                }
                if group.options.as_ref() != Some(&wanted.options) {
                    if let Err(error) = group.bound.set_options(group.options.as_ref(), &wanted.options) {
                        tracing::warn!(listener = listener.name, %error, "an option of the listening socket cannot be changed");
                    }
                    group.options = Some(wanted.options);
                }
                self.groups.push(group);
            }
        }
        for (_, group) in there {
            moves.close.extend(group.doors.iter().map(|&(id, worker)| (worker, id)));
            moves.files.extend(group.file);
        }
        self.deal(workers, &mut moves);
        moves
    }

    /// Gives every socket to one of `workers` workers, and each worker at least one of every address.
    fn deal(&mut self, workers: usize, moves: &mut Moves) {
        for group in &mut self.groups {
            if let Some(options) = &group.options
                && let Err(error) = group.bound.grow(workers, options)
            {
                // The workers that have none of it take nothing from it; the others do.
                tracing::warn!(listener = &*group.listener, %error, "cannot open a socket for every worker");
            }
            for i in 0..group.bound.sockets.len() {
                let worker = i % workers;
                if group.doors.get(i).is_some_and(|&(_, at)| at == worker) {
                    continue;
                }
                let socket = match group.bound.sockets[i].try_clone() {
                    Ok(socket) => socket,
                    Err(error) => {
                        tracing::error!(listener = &*group.listener, %error, "cannot hand a listening socket to a worker");
                        continue;
                    }
                };
                self.last += 1;
                let door = Door {
                    id: self.last,
                    listener: Arc::clone(&group.listener),
                    place: group.bound.place.clone(),
                    socket,
                    held: Arc::downgrade(&group.held),
                };
                moves.open.push((worker, door));
                if let Some((id, at)) = group.doors.get_mut(i) {
                    moves.leave.push((*at, *id));
                    (*id, *at) = (self.last, worker);
                } else {
                    group.doors.push((self.last, worker));
                }
            }
        }
    }

    /// No worker accepts any more; the sockets stay open, and who waits in their queues waits on.
    pub(crate) fn leave(&mut self) -> Moves {
        let mut moves = Moves::default();
        for group in &mut self.groups {
            moves.leave.extend(group.doors.drain(..).map(|(id, worker)| (worker, id)));
        }
        moves
    }

    /// A duplicate of every listening socket, with its listener's name.
    ///
    /// # Errors
    /// If there is no room for so many open files.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let all = self.groups.iter().flat_map(|g| g.bound.sockets.iter().map(|s| (g.listener.to_string(), s)));
        all.map(|(name, socket)| Ok((name, socket.try_clone()?))).collect()
    }

    /// Closes all: what workers are to be told at the end.
    pub(crate) fn close(&mut self) -> Moves {
        let mut moves = Moves::default();
        for group in self.groups.drain(..) {
            moves.close.extend(group.doors.iter().map(|&(id, worker)| (worker, id)));
            moves.files.extend(group.file);
        }
        moves
    }
}

impl Prepared {
    /// Sockets that wait to be used.
    pub(crate) fn sockets(&self) -> usize {
        self.new.iter().map(|g| g.bound.sockets.len()).sum()
    }
}

/// What `wanted` is to have of what is inherited, with the file that is to be removed in the end; `None` if there is nothing.
/// A socket for every worker is bound while we may: it takes nothing before the options are set.
fn inherit(
    wanted: &Wanted<'_>,
    listener: &str,
    workers: usize,
    inherited: &mut Inherited,
) -> Option<Result<(Bound, Option<SocketFile>), BindError>> {
    match wanted.bind {
        Bind::Ip { address, .. } => {
            let at = (address.ip, wanted.port);
            let mut bound = inherited.take_ip(wanted.transport, listener, at, &wanted.options)?;
            if let Err(error) = bound.grow_silently(workers, &wanted.options) {
                tracing::warn!(listener, %error, "not every worker has a socket of its own: some take nothing from it");
            }
            Some(Ok((bound, None)))
        }
        Bind::Unix { path, mode, group, .. } => {
            let found = inherited.take_unix(path)?;
            Some(set_access(path, *mode, group.as_deref()).map(|()| found))
        }
    }
}

/// An address that a listener wants.
struct Wanted<'a> {
    key: Key,
    bind: &'a Bind,
    /// Streams, for a unix socket.
    transport: Transport,
    port: u16,
    options: ListenOptions,
}

/// Every address of `listener`, port by port, for each protocol that it speaks.
fn wanted(listener: &Listener) -> impl Iterator<Item = Wanted<'_>> {
    let transports = [(Transport::Tcp, listener.protocols.tcp), (Transport::Udp, listener.protocols.udp)];
    let transports = transports.into_iter().filter(|(_, speaks)| *speaks).map(|(transport, _)| transport);
    let all = listener.bind.iter().flat_map(move |bind| transports.clone().map(move |transport| (bind, transport)));
    all.flat_map(move |(bind, transport)| {
        let ports = match bind {
            Bind::Ip { address, .. } => address.first..=address.last,
            Bind::Unix { .. } => 0..=0,
        };
        ports.map(move |port| {
            let options = translate::listen_options(listener, transport, bind);
            let key = match bind {
                Bind::Ip { address, freebind, transparent, interface, .. } => Key::Ip {
                    transport,
                    address: address.ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string()),
                    port,
                    freebind: *freebind,
                    transparent: *transparent,
                    interface: interface.clone(),
                    mptcp: options.mptcp,
                    // A size that was set once cannot be left to the kernel again; for datagrams we have one of our own.
                    fixed_buffers: match transport {
                        Transport::Tcp => {
                            (options.socket.send_buffer.is_some(), options.socket.receive_buffer.is_some())
                        }
                        Transport::Udp => (true, true),
                    },
                },
                Bind::Unix { path, .. } => Key::Unix(path.clone()),
            };
            Wanted { key, bind, transport, port, options }
        })
    })
}

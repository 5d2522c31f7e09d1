//! UDP/4500 with segmentation offload: runs of equal datagrams, each sent by one system call; and IP protocols without
//! ports, whose runs go packet by packet (`sendmmsg`).

use crate::drops::Reason;
use crate::ip;
use crate::lock;
use crate::outbound::Sink;
use crate::plane::Plane;
use crate::sad::Path;
use crate::sys::{self, RawAddress};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// UDP_MAX_SEGMENTS of older kernels.
const MAX_RUN_SEGMENTS: usize = 64;
/// Below the largest UDP datagram of both families.
const MAX_RUN_BYTES: usize = 65_000;

/// One socket and its local endpoint, whose port is 0 where the protocol has none.
pub struct Port {
    /// A descriptor of our own.
    pub fd: OwnedFd,
    /// What it is bound to.
    pub local: SocketAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Datagrams that the kernel dropped for want of room.
    pub overflow: AtomicU32,
}

/// All sockets by local address and protocol.
#[derive(Default)]
pub struct Ports(Mutex<HashMap<(IpAddr, u8), Arc<Port>>>);

impl Ports {
    /// Send through this socket from now on.
    pub fn insert(&self, port: Arc<Port>) {
        lock(&self.0).insert((port.local.ip(), port.protocol), port);
    }

    /// Use a socket no more.
    pub fn remove(&self, address: IpAddr, protocol: u8) -> Option<Arc<Port>> {
        lock(&self.0).remove(&(address, protocol))
    }

    /// The socket of an address and a protocol.
    pub fn get(&self, address: IpAddr, protocol: u8) -> Option<Arc<Port>> {
        lock(&self.0).get(&(address, protocol)).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Port>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Use none any more.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Send one datagram that is no ESP.
    pub fn send_one(&self, plane: &Plane, path: &Path, datagram: &[u8]) {
        let Some(port) = self.get(path.local.ip(), path.carrier()) else {
            return plane.drop(Reason::SendFailed, None, 1);
        };
        if let Err(error) = sys::send_run(&port.fd, datagram, datagram.len(), &RawAddress::new(path.remote), 0) {
            plane.drop(drop_reason(&error), None, 1);
        }
    }
}

/// Name what the kernel said to a datagram of ours.
fn drop_reason(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => Reason::SendQueueFull,
        Some(libc::EMSGSIZE) => Reason::TooBig,
        _ => Reason::SendFailed,
    }
}

struct Run {
    path: Path,
    carrier: u8,
    tos: u8,
    start: usize,
    size: usize,
    count: usize,
    closed: bool,
}

/// Collects datagrams into runs.  A run ends where path or TOS changes, where a datagram is larger than the first,
/// behind a shorter one, and at the limits of the kernel.
#[derive(Default)]
pub struct RunSender {
    buffer: Vec<u8>,
    used: usize,
    last: usize,
    runs: Vec<Run>,
}

impl Sink for RunSender {
    fn place(&mut self, path: &Path, carrier: u8, tos: u8, size: usize) -> &mut [u8] {
        if self.buffer.len() < self.used + size {
            self.buffer.resize(self.used + size + 2 * MAX_RUN_BYTES, 0);
        }
        self.last = self.used;
        self.used += size;
        let start = self.last;
        match self.runs.last_mut() {
            Some(run) if run.takes(path, carrier, tos, size, start) => {
                run.count += 1;
                run.closed = size < run.size;
            }
            _ => {
                if let Some(run) = self.runs.last_mut() {
                    run.closed = true;
                }
                self.runs.push(Run { path: *path, carrier, tos, start, size, count: 1, closed: false });
            }
        }
        &mut self.buffer[start..start + size]
    }

    fn take_back(&mut self) {
        self.used = self.last;
        if let Some(run) = self.runs.last_mut() {
            run.count -= 1;
            run.closed = true;
            if run.count == 0 {
                self.runs.pop();
            }
        }
    }
}

impl Run {
    fn takes(&self, path: &Path, carrier: u8, tos: u8, size: usize, at: usize) -> bool {
        !self.closed
            && size <= self.size
            && tos == self.tos
            && carrier == self.carrier
            && self.count < MAX_RUN_SEGMENTS
            && at - self.start + size <= MAX_RUN_BYTES
            && *path == self.path
    }
}

impl RunSender {
    /// Send everything.
    pub fn flush(&mut self, plane: &Plane, ports: &Ports) {
        let mut ends: Vec<usize> = self.runs.iter().skip(1).map(|run| run.start).collect();
        ends.push(self.used);
        self.used = 0;
        let mut port: Option<Arc<Port>> = None;
        for (run, end) in self.runs.drain(..).zip(ends) {
            let (address, protocol) = (run.path.local.ip(), run.carrier);
            if port.as_ref().is_none_or(|port| port.local.ip() != address || port.protocol != protocol) {
                port = ports.get(address, protocol);
            }
            match &port {
                Some(port) => send_run(plane, port, &run, &self.buffer[run.start..end]),
                // Our address went away and the path was not moved yet.
                None => plane.drop(Reason::SendFailed, None, run.count as u64),
            }
        }
    }

    /// Hand over the datagrams instead of sending them (tests).
    pub fn drain(&mut self) -> Vec<(Path, u8, Vec<u8>)> {
        let mut ends: Vec<usize> = self.runs.iter().skip(1).map(|run| run.start).collect();
        ends.push(self.used);
        let mut datagrams = Vec::new();
        for (run, end) in self.runs.drain(..).zip(ends) {
            let pieces = self.buffer[run.start..end].chunks(run.size);
            datagrams.extend(pieces.map(|piece| (run.path, run.tos, piece.to_vec())));
        }
        self.used = 0;
        datagrams
    }
}

fn send_run(plane: &Plane, port: &Port, run: &Run, data: &[u8]) {
    let to = RawAddress::new(run.path.remote);
    if port.protocol != ip::UDP {
        let failed = |error, count| plane.drop(drop_reason(&error), None, count);
        return sys::send_each(&port.fd, data, run.size, &to, run.tos, failed);
    }
    let Err(error) = sys::send_run(&port.fd, data, run.size, &to, run.tos) else { return };
    let no_segmentation = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE));
    if run.count == 1 || !no_segmentation {
        return plane.drop(drop_reason(&error), None, run.count as u64);
    }
    // A device or path that takes no segmentation.
    for datagram in data.chunks(run.size) {
        if let Err(error) = sys::send_run(&port.fd, datagram, datagram.len(), &to, run.tos) {
            plane.drop(drop_reason(&error), None, 1);
        }
    }
}

/// Note the kernel's count of datagrams dropped.
pub fn note_overflow(port: &Port, overflow: Option<u32>) {
    if let Some(count) = overflow {
        port.overflow.store(count, Relaxed);
    }
}

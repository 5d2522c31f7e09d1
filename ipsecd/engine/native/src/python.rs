//! What Python sees: one class, whose methods take and give plain values; native.py makes the project's own of them.
//!
//! Every call that takes a lock of the data plane lets go of the interpreter first, so a thread of the data plane can
//! never wait for Python, nor Python's other threads for it.

use crate::ah_inbound;
use crate::arguments::{EntryTuple, PairArguments, PathTuple, StatsTuple, entry_of, path_of, stats_of, tuple_of};
use crate::inbound::{self, Bytes, Delivered, Outside};
use crate::lock;
use crate::order::Order;
use crate::outbound::Outbound;
use crate::panics;
use crate::plane::Plane;
use crate::protect::Dummy;
use crate::reports::Report;
use crate::segment::Cutter;
use crate::spd::Id;
use crate::sys;
use crate::threads::{Shared, Worker};
use crate::tun::{Tun, Tuns};
use crate::udp::{Port, Ports, RunSender};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What native.py must know too; another number for every change of what passes between the two.
const INTERFACE: u32 = 6;

type DropList = Vec<(&'static str, u64)>;

#[derive(PartialEq, Eq, Hash)]
enum Source {
    Queue(Id, usize),
    Port(IpAddr, u8),
}

/// The data plane.  Its threads run from `add_tun` and `add_socket` until `remove_*` or `close`.
#[pyclass(module = "ipsecd.engine._native")]
struct Engine {
    shared: Arc<Shared>,
    workers: Mutex<HashMap<Source, Worker>>,
    /// What the caller's own packets go through: released ones.
    caller: Mutex<Outbound>,
}

#[pymethods]
impl Engine {
    #[new]
    fn new() -> PyResult<Engine> {
        panics::install();
        let shared =
            Shared { plane: Plane::new()?, ports: Ports::default(), tuns: Tuns::default(), order: Order::default() };
        Ok(Engine { shared: Arc::new(shared), workers: Mutex::default(), caller: Mutex::default() })
    }

    /// Readable when `take_reports` has something.
    fn descriptor(&self) -> RawFd {
        self.shared.plane.reports.descriptor()
    }

    fn add_tun(
        &self,
        py: Python<'_>,
        device: Id,
        fds: Vec<RawFd>,
        interface: Option<Id>,
        vnet: bool,
        joins_udp: bool,
    ) -> PyResult<()> {
        self.remove_tun(py, device);
        let queues = fds.into_iter().map(sys::duplicate).collect::<Result<Vec<_>, _>>()?;
        if queues.is_empty() {
            return Err(PyValueError::new_err("a device has a queue"));
        }
        let tun = Arc::new(Tun { device, queues, vnet, joins_udp });
        py.detach(|| {
            self.shared.plane.add_device(device, interface);
            self.shared.tuns.insert(tun.clone());
            for queue in 0..tun.queues.len() {
                let worker = Worker::of_queue(self.shared.clone(), tun.clone(), queue)?;
                lock(&self.workers).insert(Source::Queue(device, queue), worker);
            }
            Ok(())
        })
    }

    /// Returns when no thread of ours uses the device any more.
    fn remove_tun(&self, py: Python<'_>, device: Id) {
        py.detach(|| {
            let mut queue = 0;
            while let Some(worker) = lock(&self.workers).remove(&Source::Queue(device, queue)) {
                drop(worker);
                queue += 1;
            }
            if let Some(tun) = self.shared.tuns.remove(device) {
                wait_for_others(&tun);
            }
        });
    }

    /// Know a device without reading it (tests, and what is delivered elsewhere).
    fn add_device(&self, py: Python<'_>, device: Id, interface: Option<Id>) {
        py.detach(|| self.shared.plane.add_device(device, interface));
    }

    fn add_socket(&self, py: Python<'_>, address: IpAddr, port: u16, protocol: u8, fd: RawFd) -> PyResult<()> {
        self.remove_socket(py, address, protocol);
        let local = SocketAddr::new(address, port);
        let port = Arc::new(Port { fd: sys::duplicate(fd)?, local, protocol, overflow: AtomicU32::new(0) });
        py.detach(|| {
            self.shared.ports.insert(port.clone());
            self.know_own_addresses();
            let worker = Worker::of_port(self.shared.clone(), port)?;
            lock(&self.workers).insert(Source::Port(address, protocol), worker);
            Ok(())
        })
    }

    /// Returns when no thread of ours uses the socket any more.
    fn remove_socket(&self, py: Python<'_>, address: IpAddr, protocol: u8) {
        py.detach(|| {
            drop(lock(&self.workers).remove(&Source::Port(address, protocol)));
            if let Some(port) = self.shared.ports.remove(address, protocol) {
                wait_for_others(&port);
                self.know_own_addresses();
            }
        });
    }

    /// Own addresses beside those of the sockets (tests).
    fn set_own_addresses(&self, py: Python<'_>, addresses: Vec<IpAddr>) {
        py.detach(|| self.shared.plane.set_own_addresses(addresses.into_iter().collect()));
    }

    /// Raises ValueError for keys that do not fit, or a replay window that does not exist.
    fn install_sa(&self, py: Python<'_>, pair: PairArguments) -> PyResult<()> {
        let spec = pair.spec().map_err(|error| PyValueError::new_err(error.0))?;
        let spi_in = spec.spi_in;
        let installed = self.detached(py, || {
            let installed = self.shared.plane.install(spec);
            if installed {
                self.shared.open_early(spi_in);
            }
            installed
        })?;
        installed.then_some(()).ok_or_else(|| PyValueError::new_err("no such replay window"))
    }

    fn use_outbound(&self, py: Python<'_>, child: Id, spi_in: u32) -> PyResult<()> {
        self.detached(py, || {
            let now = sys::now();
            let released = self.shared.plane.use_outbound(child, spi_in, now);
            if released.is_empty() {
                return;
            }
            let mut outbound = lock(&self.caller);
            for (device, mut packet) in released {
                if let Some(cutter) = Cutter::new(&mut packet, false) {
                    self.shared.send(&mut outbound, &mut RunSender::default(), device, &[cutter], now);
                }
            }
        })
    }

    fn update_path(&self, py: Python<'_>, spi_in: u32, path: PathTuple) -> PyResult<()> {
        self.detached(py, || self.shared.plane.update_path(spi_in, path_of(path)))
    }

    fn remove_sa(&self, py: Python<'_>, spi_in: u32) -> PyResult<Option<(StatsTuple, DropList)>> {
        let last = self.detached(py, || self.shared.plane.remove(spi_in))?;
        Ok(last.map(|(stats, drops)| (stats_of(&stats), drops)))
    }

    fn abandon_held(&self, py: Python<'_>, child: Id) -> PyResult<()> {
        self.detached(py, || self.shared.plane.abandon_held(child))
    }

    fn replace_policy(&self, py: Python<'_>, entries: Vec<EntryTuple>, inner_mtus: HashMap<Id, u32>) -> PyResult<()> {
        self.detached(py, || {
            self.shared.plane.replace_policy(entries.iter().map(entry_of).collect(), inner_mtus);
        })
    }

    fn send(&self, py: Python<'_>, path: PathTuple, datagram: Vec<u8>) -> PyResult<()> {
        self.detached(py, || self.shared.ports.send_one(&self.shared.plane, &path_of(path), &datagram))
    }

    fn inject(&self, py: Python<'_>, child: Id, mut packet: Vec<u8>) -> PyResult<bool> {
        self.detached(py, || {
            let (shared, mut sealed) = (&self.shared, RunSender::default());
            let Some(cutter) = Cutter::new(&mut packet, false) else { return false };
            let (turn, (sent, numbered)) =
                shared.order.turn(|| Outbound::inject(&shared.plane, child, &cutter, sys::now()));
            if let Some(numbered) = numbered {
                numbered.seal(&shared.plane, &cutter, &mut sealed);
            }
            shared.finish(turn, &mut sealed);
            sent
        })
    }

    /// Send a dummy; false for a pair that is not there or ended.
    fn send_dummy(&self, py: Python<'_>, spi_in: u32, size: usize) -> PyResult<bool> {
        self.detached(py, || {
            let (shared, mut sealed) = (&self.shared, RunSender::default());
            let plane = &shared.plane;
            let (turn, dummy) = shared.order.turn(|| {
                let tables = plane.tables();
                tables.sad.get(spi_in).and_then(|pair| Dummy::new(plane, pair, size, sys::now()))
            });
            let sent = dummy.is_some_and(|dummy| dummy.seal(plane, &mut sealed));
            shared.finish(turn, &mut sealed);
            sent
        })
    }

    fn last_inbound(&self, py: Python<'_>, spi_in: u32) -> PyResult<Option<f64>> {
        self.detached(py, || {
            let tables = self.shared.plane.tables();
            let pair = tables.sad.get(spi_in)?;
            lock(&pair.inward).meter.last
        })
    }

    /// Counters of pairs, drops of pairs.
    fn pairs(&self, py: Python<'_>) -> PyResult<(HashMap<u32, StatsTuple>, HashMap<u32, DropList>)> {
        self.detached(py, || {
            let tables = self.shared.plane.tables();
            let all = tables.sad.pairs();
            all.map(|pair| {
                let spi = pair.spec.spi_in;
                ((spi, stats_of(&pair.stats())), (spi, pair.drops.read()))
            })
            .unzip()
        })
    }

    /// Drops of all kinds.
    fn drops(&self) -> DropList {
        self.shared.plane.drops.read()
    }

    /// How many packets each waiting child holds.
    fn held_packets(&self, py: Python<'_>) -> Vec<(Id, usize)> {
        py.detach(|| lock(&self.shared.plane.held).counts())
    }

    /// Datagrams that the kernel dropped, by socket, and ECN combinations worth a look.
    fn overflows(&self) -> (Vec<(IpAddr, u8, u32)>, u64) {
        let ports = self.shared.ports.all();
        let overflow = |port: &Arc<Port>| (port.local.ip(), port.protocol, port.overflow.load(Relaxed));
        let overflows = ports.iter().map(overflow).collect();
        (overflows, self.shared.plane.unexpected_ecn.load(Relaxed))
    }

    /// Up to `most` reports, each a tuple that begins with its kind.
    fn take_reports<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let reports = py.detach(|| self.shared.plane.reports.take(most));
        reports.into_iter().map(|report| report_tuple(py, report)).collect()
    }

    /// Carry a frame in the caller's thread as a device's thread would; returns (path, TOS, datagram) (tests, fuzzing).
    fn step_out<'py>(&self, py: Python<'py>, device: Id, mut frame: Vec<u8>, vnet: bool, now: f64) -> Vec<Sent<'py>> {
        let mut sender = RunSender::default();
        lock(&self.caller).frame(&self.shared.plane, device, &mut frame, vnet, now, &mut sender);
        let sent = sender.drain().into_iter();
        sent.map(|(path, tos, data)| (tuple_of(&path), tos, PyBytes::new(py, &data))).collect()
    }

    /// Take one read of a socket as its thread would; returns (device, packet) (tests, fuzzing).
    fn step_in<'py>(
        &self,
        py: Python<'py>,
        mut data: Vec<u8>,
        segment: usize,
        tos: u8,
        path: PathTuple,
        now: f64,
    ) -> Vec<(Id, Bound<'py, PyBytes>)> {
        let mut delivered = Delivered::default();
        let (outside, span) = (Outside { path: path_of(path), tos, now }, 0..data.len());
        inbound::datagrams(&self.shared.plane, &mut data, span, segment, &outside, &mut delivered);
        let bytes = Bytes { read: &data, rebuilt: &delivered.rebuilt };
        delivered.packets.iter().map(|found| (found.device, PyBytes::new(py, bytes.of(found)))).collect()
    }

    /// The same with a packet that a socket of AH brought, its IP header in front.
    fn step_in_ah<'py>(
        &self,
        py: Python<'py>,
        mut data: Vec<u8>,
        path: PathTuple,
        now: f64,
    ) -> Vec<(Id, Bound<'py, PyBytes>)> {
        let mut delivered = Delivered::default();
        let (outside, span) = (Outside { path: path_of(path), tos: 0, now }, 0..data.len());
        ah_inbound::packet(&self.shared.plane, &mut data, span, &outside, &mut delivered);
        let bytes = Bytes { read: &data, rebuilt: &delivered.rebuilt };
        delivered.packets.iter().map(|found| (found.device, PyBytes::new(py, bytes.of(found)))).collect()
    }

    /// Stop all threads and let go of all descriptors.
    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            lock(&self.workers).clear();
            self.shared.ports.clear();
            self.shared.tuns.clear();
        });
    }
}

type Sent<'py> = (PathTuple, u8, Bound<'py, PyBytes>);

impl Engine {
    /// Run a command without the interpreter.  A panic in it is told by its place, as those of the threads are, and fails
    /// the command alone.
    fn detached<T: Send>(&self, py: Python<'_>, command: impl FnOnce() -> T + Send) -> PyResult<T> {
        py.detach(|| panics::caught(command)).map_err(|why| {
            self.shared.plane.reports.push(Report::Fault(why));
            PyRuntimeError::new_err("a fault in the native engine, reported")
        })
    }

    fn know_own_addresses(&self) {
        let own = self.shared.ports.all().iter().map(|port| port.local.ip()).collect();
        self.shared.plane.set_own_addresses(own);
    }
}

/// Other threads hold a device or socket for the length of one system call.
fn wait_for_others<T>(shared: &Arc<T>) {
    while Arc::strong_count(shared) > 1 {
        std::thread::yield_now();
    }
}

fn report_tuple(py: Python<'_>, report: Report) -> PyResult<Bound<'_, PyAny>> {
    let bytes = |data: &[u8]| PyBytes::new(py, data);
    let tuple = match report {
        Report::Ike(path, datagram) => ("ike", tuple_of(&path), bytes(&datagram)).into_pyobject(py)?,
        Report::Acquire(child, packet) => ("acquire", child, bytes(&packet)).into_pyobject(py)?,
        Report::SoftLifetime(spi_in, why) => ("soft", spi_in, why).into_pyobject(py)?,
        Report::HardLifetime(spi_in, why) => ("hard", spi_in, why).into_pyobject(py)?,
        Report::PeerAddress(pair) => {
            pair.move_told.store(false, Relaxed); // before reading: a later move gets a report of its own
            ("peer_address", pair.spec.spi_in, tuple_of(&pair.path())).into_pyobject(py)?
        }
        Report::FirstInbound(spi_in) => ("first", spi_in).into_pyobject(py)?,
        Report::LargeOutbound(spi_in) => ("large", spi_in).into_pyobject(py)?,
        Report::UnknownSpi(path, spi) => ("unknown", tuple_of(&path), spi).into_pyobject(py)?,
        Report::Fault(why) => ("fault", why).into_pyobject(py)?,
    };
    Ok(tuple.into_any())
}

/// The module `ipsecd.engine._native`.  Without its ciphers, or with panics to order, it has another name: nothing but
/// scripts/bench and tests ask for it.
#[pymodule]
#[cfg_attr(feature = "no-crypto", pyo3(name = "_native_no_crypto"))]
#[cfg_attr(feature = "faults", pyo3(name = "_native_faults"))]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<Engine>()
}

//! The threads: one for each queue of a device, one for each socket.  A fault in one is caught and told; the packets of that read
//! are lost, caches begin anew, and the thread goes on.  Nothing passes in clear: what leaves was sealed or is dropped.

use crate::ah_inbound;
use crate::ah_port::AhReader;
use crate::drops::Reason;
use crate::inbound::{self, Delivered, Outside};
use crate::ip;
use crate::join::Joiner;
use crate::lock;
use crate::order::{Order, Turn};
use crate::outbound::Outbound;
use crate::panics;
use crate::plane::Plane;
use crate::reports::Report;
use crate::sad::Path;
use crate::segment::{Cutter, VNET_BYTES};
use crate::spd::Id;
use crate::sys::{self, Batch, EventFd};
use crate::tun::{self, Tun, Tuns};
use crate::udp::{Port, Ports, RunSender, note_overflow};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Reads of a device before what was collected is sealed and sent in any case.
const MAX_BATCH_FRAMES: usize = 64;
/// The same in bytes; a frame above the second figure is no small packet, and nothing is collected behind it.
const MAX_BATCH_BYTES: usize = 65_536;
const SMALL_FRAME_BYTES: usize = 2048;
const FRAME_BYTES: usize = VNET_BYTES + 65_536;
/// Reads of a socket by one system call.
const SLOTS: usize = 8;
/// The same where each brings one packet: it has room for the longest, of which memory is used as far as packets reach.
const PACKET_SLOTS: usize = 64;
const SLOT_BYTES: usize = 65_536;
/// After an error that reading again at once would only repeat (the device was deleted).
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// What the threads work on.
pub struct Shared {
    /// Tables and counters.
    pub plane: Plane,
    /// Sockets.
    pub ports: Ports,
    /// Devices.
    pub tuns: Tuns,
    /// In which what several threads seal is sent.
    pub order: Order,
}

impl Shared {
    /// Seal the packets of a device and send them, behind all that others numbered before.
    pub fn send(&self, outbound: &mut Outbound, sender: &mut RunSender, device: Id, cutters: &[Cutter], now: f64) {
        let plane = &self.plane;
        let (turn, numbered) = self.order.turn(|| {
            let tables = plane.tables();
            let number = |cutter| outbound.number(plane, &tables, device, cutter, now);
            cutters.iter().map(number).collect::<Vec<_>>()
        });
        for (numbered, cutter) in numbered.iter().zip(cutters) {
            if let Some(numbered) = numbered {
                numbered.seal(plane, cutter, sender);
            }
        }
        self.finish(turn, sender);
    }

    /// Send what was sealed in a turn.
    pub fn finish(&self, turn: Turn, sender: &mut RunSender) {
        turn.send(sender, |sealed| sealed.flush(&self.plane, &self.ports));
    }

    /// Open what came ahead of an SA that was installed just now.
    pub fn open_early(&self, spi_in: u32) {
        let plane = &self.plane;
        let (mut joiner, mut delivered) = (Joiner::default(), Delivered::default());
        let protocol = match plane.tables().sad.ah(spi_in) {
            Some(_) => ip::AH,
            None => ip::ESP,
        };
        let early = lock(&plane.early).take(spi_in, protocol, sys::now());
        for mut datagram in early {
            let span = 0..datagram.data.len();
            let (data, outside) = (&mut datagram.data, &datagram.outside);
            match protocol {
                ip::AH => ah_inbound::packet(plane, data, span, outside, &mut delivered),
                _ => inbound::datagrams(plane, data, span.clone(), span.end, outside, &mut delivered),
            }
            tun::deliver(plane, &self.tuns, &mut joiner, &datagram.data, &mut delivered);
        }
    }
}

struct Stop {
    flag: AtomicBool,
    event: EventFd,
}

/// A thread that reads until it is stopped.
pub struct Worker {
    stop: Arc<Stop>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// Read a queue of a device.
    pub fn of_queue(shared: Arc<Shared>, tun: Arc<Tun>, queue: usize) -> io::Result<Worker> {
        Worker::start("tun", move |stop| {
            guarded(&shared.plane.reports_to(), stop, || read_queue(&shared, &tun, queue, stop));
        })
    }

    /// Read a socket.
    pub fn of_port(shared: Arc<Shared>, port: Arc<Port>) -> io::Result<Worker> {
        Worker::start("udp", move |stop| {
            guarded(&shared.plane.reports_to(), stop, || match port.protocol {
                ip::AH => read_ah(&shared, &port, stop),
                _ => read_port(&shared, &port, stop),
            });
        })
    }

    fn start(name: &str, run: impl FnOnce(&Stop) + Send + 'static) -> io::Result<Worker> {
        let stop = Arc::new(Stop { flag: AtomicBool::new(false), event: EventFd::new()? });
        let theirs = stop.clone();
        let handle = thread::Builder::new().name(format!("{}{name}", panics::THREADS)).spawn(move || run(&theirs))?;
        Ok(Worker { stop, handle: Some(handle) })
    }

    /// Ask it to end, and wait until it did.
    pub fn stop(&mut self) {
        self.stop.flag.store(true, SeqCst);
        self.stop.event.signal();
        if let Some(handle) = self.handle.take() {
            // A panic was caught inside; there is nothing to hear of here.
            let _ = handle.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Stop {
    fn asked(&self) -> bool {
        self.flag.load(SeqCst)
    }
}

impl Plane {
    /// Look at what one read of a device brought; what is no packet is counted.
    fn cutter<'a>(&self, frame: &'a mut [u8], vnet: bool) -> Option<Cutter<'a>> {
        let cutter = Cutter::new(frame, vnet);
        if cutter.is_none() {
            self.drop(Reason::TunMalformed, None, 1);
        }
        cutter
    }

    /// How a thread tells of a fault.
    fn reports_to(&self) -> impl Fn(String) + '_ {
        |why| {
            self.reports.push(Report::Fault(why));
        }
    }
}

/// Run `body` until it ends by itself; tell what made it panic, and begin anew.
fn guarded(tell: &dyn Fn(String), stop: &Stop, mut body: impl FnMut()) {
    while !stop.asked() {
        match panics::caught(&mut body) {
            Ok(()) => return,
            Err(why) => {
                tell(why);
                thread::sleep(ERROR_PAUSE);
            }
        }
    }
}

/// What a few reads of a device brought, one frame behind the other.
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    fn new() -> Frames {
        Frames { bytes: vec![0; MAX_BATCH_BYTES + FRAME_BYTES], ends: Vec::with_capacity(MAX_BATCH_FRAMES) }
    }

    /// Read a batch; returns what ended it before it was full.
    fn read(&mut self, fd: &OwnedFd) -> Option<io::Error> {
        self.ends.clear();
        let mut at = 0;
        while self.ends.len() < MAX_BATCH_FRAMES && at < MAX_BATCH_BYTES {
            match sys::read(fd, &mut self.bytes[at..at + FRAME_BYTES]) {
                Ok(length) => {
                    at += length;
                    self.ends.push(at);
                    if length > SMALL_FRAME_BYTES {
                        return None;
                    }
                }
                Err(error) => return Some(error),
            }
        }
        None
    }

    fn each(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (mut rest, mut from) = (&mut self.bytes[..], 0);
        self.ends.iter().map(move |end| {
            let (frame, behind) = std::mem::take(&mut rest).split_at_mut(end - from);
            (rest, from) = (behind, *end);
            frame
        })
    }
}

fn read_queue(shared: &Shared, tun: &Tun, queue: usize, stop: &Stop) {
    let plane = &shared.plane;
    let (mut outbound, mut sender, mut frames) = (Outbound::default(), RunSender::default(), Frames::new());
    let fd = &tun.queues[queue];
    while !stop.asked() {
        let pause = frames.read(fd);
        let cutters: Vec<Cutter> = frames.each().filter_map(|frame| plane.cutter(frame, tun.vnet)).collect();
        if !cutters.is_empty() {
            shared.send(&mut outbound, &mut sender, tun.device, &cutters, sys::now());
        }
        if let Some(error) = pause {
            rest(&error, fd, stop);
        }
    }
}

fn read_port(shared: &Shared, port: &Port, stop: &Stop) {
    let plane = &shared.plane;
    let slots = if port.protocol == ip::UDP { SLOTS } else { PACKET_SLOTS };
    let (mut batch, mut joiner, mut delivered) =
        (Batch::new(slots, SLOT_BYTES), Joiner::default(), Delivered::default());
    while !stop.asked() {
        let filled = match batch.receive(&port.fd) {
            Ok(filled) => filled,
            Err(error) => {
                rest(&error, &port.fd, stop);
                continue;
            }
        };
        let now = sys::now();
        for slot in 0..filled {
            let Some((at, received)) = batch.describe(slot) else {
                plane.drop(Reason::UdpTruncated, None, 1);
                continue;
            };
            let path = Path { local: port.local, remote: received.from };
            let outside = Outside { path, tos: received.tos, now };
            let end = at + received.length;
            let start = at + header_bytes(port, &batch.data[at..end]);
            inbound::datagrams(plane, &mut batch.data, start..end, received.segment, &outside, &mut delivered);
        }
        tun::deliver(plane, &shared.tuns, &mut joiner, &batch.data, &mut delivered);
        note_overflow(port, batch.overflow);
    }
}

fn read_ah(shared: &Shared, port: &Port, stop: &Stop) {
    let plane = &shared.plane;
    let (mut reader, mut joiner, mut delivered) = (AhReader::new(), Joiner::default(), Delivered::default());
    while !stop.asked() {
        match reader.receive(port) {
            Ok((span, Some(from))) => {
                let path = Path { local: port.local, remote: SocketAddr::new(from.ip(), 0) };
                let outside = Outside { path, tos: 0, now: sys::now() };
                ah_inbound::packet(plane, &mut reader.data, span, &outside, &mut delivered);
                tun::deliver(plane, &shared.tuns, &mut joiner, &reader.data, &mut delivered);
            }
            Ok((_, None)) => plane.drop(Reason::AhMalformed, None, 1),
            Err(error) => rest(&error, &port.fd, stop),
        }
        note_overflow(port, reader.overflow);
    }
}

/// Length of the IP header that is ahead of what a socket gave: raw ones have it in IPv4 alone (raw(7), ipv6(7)).
fn header_bytes(port: &Port, read: &[u8]) -> usize {
    if port.protocol == ip::UDP || port.local.is_ipv6() {
        return 0;
    }
    read.first().map_or(0, |first| usize::from(first & 15) * 4).min(read.len())
}

/// Wait for something to read, or a moment after an error that would come again at once.
fn rest(error: &io::Error, fd: &OwnedFd, stop: &Stop) {
    match error.kind() {
        ErrorKind::WouldBlock => {
            if sys::wait_readable(fd, stop.event.raw()).is_err() {
                thread::sleep(ERROR_PAUSE);
            }
        }
        ErrorKind::Interrupted | ErrorKind::ConnectionRefused => {}
        _ => thread::sleep(ERROR_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    #[test]
    fn panic_is_told_and_the_work_begins_anew() {
        panics::install();
        let ((told, hear), runs) = (mpsc::channel(), Arc::new(AtomicUsize::new(0)));
        let theirs = runs.clone();
        let mut worker = Worker::start("tun", move |stop| {
            let tell = |why| told.send(why).expect("the test listens");
            guarded(&tell, stop, || assert!(theirs.fetch_add(1, SeqCst) > 0, "first time"));
        })
        .expect("a thread");
        let why = hear.recv().expect("a word of the panic");
        assert!(why.starts_with("panic at") && why.contains("threads.rs"), "{why}");
        assert!(hear.recv().is_err(), "it ended by itself, without another");
        worker.stop();
        assert_eq!(runs.load(SeqCst), 2);
    }
}

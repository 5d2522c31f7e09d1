//! TUN devices, and delivery to them.

use crate::drops::Reason;
use crate::inbound::{Bytes, Delivered};
use crate::ip;
use crate::join::{Joiner, Write};
use crate::lock;
use crate::plane::Plane;
use crate::spd::Id;
use crate::sys;
use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// One device.
pub struct Tun {
    /// Its number.
    pub device: Id,
    /// Descriptors of our own, one for each queue.
    pub queues: Vec<OwnedFd>,
    /// A virtio header is ahead of every packet.
    pub vnet: bool,
    /// It takes joined UDP.
    pub joins_udp: bool,
}

/// All devices by number.
#[derive(Default)]
pub struct Tuns(Mutex<HashMap<Id, Arc<Tun>>>);

impl Tuns {
    /// Deliver to this device from now on.
    pub fn insert(&self, tun: Arc<Tun>) {
        lock(&self.0).insert(tun.device, tun);
    }

    /// Deliver to it no more.
    pub fn remove(&self, device: Id) -> Option<Arc<Tun>> {
        lock(&self.0).remove(&device)
    }

    /// Use none any more.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The device of a number.
    pub fn get(&self, device: Id) -> Option<Arc<Tun>> {
        lock(&self.0).get(&device).cloned()
    }
}

struct Writer<'a> {
    plane: &'a Plane,
    tun: &'a Tun,
}

impl Write for Writer<'_> {
    fn write(&mut self, parts: &[IoSlice]) {
        if sys::write_parts(self.tun.queue_of(parts), parts).is_err() {
            self.plane.drop(Reason::TunWriteFailed, None, 1); // the device is down
        }
    }
}

impl Tun {
    /// The queue to which a frame is written: that of its flow, so that packets stay in order, and that flows spread.  The
    /// kernel hands the other direction of a flow to the reader of the queue that its packets were written to last.
    fn queue_of(&self, parts: &[IoSlice]) -> &OwnedFd {
        let packet = parts.get(usize::from(self.vnet)).map_or(&[][..], |part| part);
        match self.queues.len() {
            1 => &self.queues[0],
            count => &self.queues[ip::flow_hash(packet) as usize % count],
        }
    }
}

/// Write the packets of a batch to their devices.
pub fn deliver(plane: &Plane, tuns: &Tuns, joiner: &mut Joiner, read: &[u8], delivered: &mut Delivered) {
    let bytes = Bytes { read, rebuilt: &delivered.rebuilt };
    let mut rest = &delivered.packets[..];
    while let Some(first) = rest.first() {
        // Nearly always there is one device.
        let count = rest.iter().take_while(|delivery| delivery.device == first.device).count();
        let (these, others) = rest.split_at(count);
        rest = others;
        match tuns.get(first.device) {
            Some(tun) => {
                let mut writer = Writer { plane, tun: &tun };
                if tun.vnet {
                    joiner.write(bytes, these, tun.joins_udp, &mut writer);
                } else {
                    for delivery in these {
                        writer.write(&[IoSlice::new(bytes.of(delivery))]);
                    }
                }
            }
            // Its SA outlived the device.
            None => plane.drop(Reason::TunWriteFailed, None, count as u64),
        }
    }
    delivered.clear();
}

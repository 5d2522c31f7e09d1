//! The system calls that the standard library does not have.  All `unsafe` of the crate is here.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Socket level and options of UDP offload (linux/udp.h).
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const SO_RXQ_OVFL: i32 = 40;
/// Room for segment size, overflow counter and traffic class, each in a header of 16 bytes.
const CONTROL_WORDS: usize = 16;

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A descriptor of our own for the file that `fd` names.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only; a bad descriptor is an error.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) } as isize)?;
    // SAFETY: the kernel just gave it to us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Seconds of CLOCK_BOOTTIME, the daemon's clock.
pub fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and lives through the call.  The clock exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Read one packet.
pub fn read(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a slice that we may write.
    check(unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) })
}

/// Write one packet from its parts.
pub fn write_parts(fd: &OwnedFd, parts: &[io::IoSlice]) -> io::Result<usize> {
    // SAFETY: IoSlice is guaranteed to have the layout of iovec, and its memory lives through the call.
    check(unsafe { libc::writev(fd.as_raw_fd(), parts.as_ptr().cast(), parts.len() as i32) })
}

/// Wait until one of two descriptors is readable.
pub fn wait_readable(a: &OwnedFd, b: RawFd) -> io::Result<()> {
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polled = [poll(a.as_raw_fd()), poll(b)];
    // SAFETY: an array of two entries that lives through the call.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) } as isize) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// An eventfd: readable after `signal` until `clear`.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, not readable.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: the call takes numbers only.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } as isize)?;
        // SAFETY: the kernel just gave it to us.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Make it readable.
    pub fn signal(&self) {
        // An error could only say that it is readable already, by 2^64 - 2 times.
        let _ = write_parts(&self.0, &[io::IoSlice::new(&1u64.to_ne_bytes())]);
    }

    /// Make it not readable.
    pub fn clear(&self) {
        let _ = read(&self.0, &mut [0; 8]);
    }

    /// Its number.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    length: u32,
}

impl RawAddress {
    /// Convert.
    pub fn new(address: SocketAddr) -> RawAddress {
        // SAFETY: a structure of plain integers, for which zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        let place = &raw mut storage;
        let length = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large enough for every address, and aligned for it.
                unsafe { place.cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { place.cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        RawAddress { storage, length: length as u32 }
    }

    /// The address that the kernel wrote; `None` for another family.
    fn read(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
        let place = &raw const *storage;
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the structure holds.
                let raw = unsafe { &*place.cast::<libc::sockaddr_in>() };
                let ip = raw.sin_addr.s_addr.to_ne_bytes().into();
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*place.cast::<libc::sockaddr_in6>() };
                let ip = raw.sin6_addr.s6_addr.into();
                Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Send `data` as datagrams of `segment` bytes, the last one shorter, with the outer traffic class `tos`.
pub fn send_run(fd: &OwnedFd, data: &[u8], segment: usize, to: &RawAddress, tos: u8) -> io::Result<()> {
    let mut control = Control::traffic_class(to, tos);
    if data.len() > segment {
        control.push(SOL_UDP, UDP_SEGMENT, &(segment as u16).to_ne_bytes());
    }
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: a structure of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    address(&mut message, to, &mut part, &mut control);
    // SAFETY: everything that `message` points to lives through the call, and sendmsg only reads it.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_DONTWAIT) }).map(|_| ())
}

/// Send `data` in packets of `segment` bytes, the last one shorter, where no offload cuts it.  `failed` hears why a
/// packet was not sent; those behind it still are, but for a full queue.
pub fn send_each(
    fd: &OwnedFd,
    data: &[u8],
    segment: usize,
    to: &RawAddress,
    tos: u8,
    mut failed: impl FnMut(io::Error, u64),
) {
    let mut control = Control::traffic_class(to, tos);
    let part = |piece: &[u8]| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
    let mut parts: Vec<libc::iovec> = data.chunks(segment).map(part).collect();
    let message = |part: &mut libc::iovec| {
        // SAFETY: a structure of integers and pointers, for which zero is a value.
        let mut header: libc::mmsghdr = unsafe { zeroed() };
        address(&mut header.msg_hdr, to, part, &mut control);
        header
    };
    let mut headers: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
    let mut rest = &mut headers[..];
    while !rest.is_empty() {
        // SAFETY: everything that the headers point to lives through the call, and sendmmsg only reads it.
        let result =
            unsafe { libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT) };
        let skipped = match check(result as isize) {
            Ok(sent) => sent.max(1),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                return failed(error, rest.len() as u64);
            }
            Err(error) => {
                failed(error, 1);
                1
            }
        };
        rest = &mut rest[skipped..];
    }
}

/// Let a message carry one part to an address.
fn address(message: &mut libc::msghdr, to: &RawAddress, part: &mut libc::iovec, control: &mut Control) {
    message.msg_name = (&raw const to.storage).cast_mut().cast();
    message.msg_namelen = to.length;
    message.msg_iov = part;
    message.msg_iovlen = 1;
    if control.used > 0 {
        message.msg_control = control.words.as_mut_ptr().cast();
        message.msg_controllen = control.used;
    }
}

/// Control messages, aligned as the kernel wants them (cmsg(3)).
#[derive(Clone, Copy, Default)]
struct Control {
    words: [u64; CONTROL_WORDS],
    used: usize,
}

impl Control {
    /// What gives the outer header its traffic class.
    fn traffic_class(to: &RawAddress, tos: u8) -> Control {
        let mut control = Control::default();
        if tos != 0 {
            let ipv6 = i32::from(to.storage.ss_family) == libc::AF_INET6;
            let (level, kind) =
                if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
            control.push(level, kind, &i32::from(tos).to_ne_bytes());
        }
        control
    }

    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        // cmsghdr: length of header and value, level, type; then the value, all aligned to words.
        let at = self.used / 8;
        self.words[at] = 16 + value.len() as u64;
        let mut pair = [0; 8];
        pair[..4].copy_from_slice(&level.to_ne_bytes());
        pair[4..].copy_from_slice(&kind.to_ne_bytes());
        self.words[at + 1] = u64::from_ne_bytes(pair);
        let mut word = [0; 8];
        word[..value.len()].copy_from_slice(value);
        self.words[at + 2] = u64::from_ne_bytes(word);
        self.used += 24;
    }
}

/// What one read brought: datagrams of `segment` bytes one behind the other, the last may be shorter.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Received {
    pub length: usize,
    pub segment: usize,
    pub tos: u8,
    pub from: SocketAddr,
}

/// Buffers for several reads by one system call.
pub struct Batch {
    /// `slots` pieces of `slot_bytes`.
    pub data: Box<[u8]>,
    slot_bytes: usize,
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    /// Datagrams that the kernel dropped for want of room, as it last told.
    pub overflow: Option<u32>,
}

// SAFETY: the pointers inside lead to the boxes beside them and are set anew for each call.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `slots` reads of up to `slot_bytes`.
    pub fn new(slots: usize, slot_bytes: usize) -> Batch {
        // SAFETY: structures of integers and pointers, for which zero is a value.
        let (header, name) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::sockaddr_storage>()) };
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Batch {
            data: vec![0; slots * slot_bytes].into_boxed_slice(),
            slot_bytes,
            headers: vec![header; slots].into_boxed_slice(),
            parts: vec![part; slots].into_boxed_slice(),
            names: vec![name; slots].into_boxed_slice(),
            controls: vec![Control::default(); slots].into_boxed_slice(),
            overflow: None,
        }
    }

    /// Read what is there, without waiting; returns how many slots were filled.
    pub fn receive(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        for (slot, piece) in self.data.chunks_exact_mut(self.slot_bytes).enumerate() {
            self.parts[slot] = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_name = (&raw mut self.names[slot]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            header.msg_iov = &raw mut self.parts[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[slot].words.as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        }
        let count = self.headers.len() as u32;
        let none = std::ptr::null_mut();
        // SAFETY: each header was just pointed at memory of its own slot, which is ours and lives through the call.
        let result =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, none) };
        check(result as isize)
    }

    /// Describe a filled slot; its data begin at the returned offset.  `None` for a sender of no family of ours.
    pub fn describe(&mut self, slot: usize) -> Option<(usize, Received)> {
        let from = RawAddress::read(&self.names[slot])?;
        let length = self.headers[slot].msg_len as usize;
        let mut found = Received { length, segment: length, tos: 0, from };
        let (control, used) = (&self.controls[slot].words, self.headers[slot].msg_hdr.msg_controllen);
        let mut at = 0;
        while (at + 2) * 8 < used && at + 2 < CONTROL_WORDS {
            let kind = control[at + 1].to_ne_bytes();
            let value = control[at + 2].to_ne_bytes();
            let word = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
            match [0, 4].map(|n| i32::from_ne_bytes([kind[n], kind[n + 1], kind[n + 2], kind[n + 3]])) {
                [SOL_UDP, UDP_GRO] => found.segment = (word as usize).max(1),
                [libc::SOL_SOCKET, SO_RXQ_OVFL] => self.overflow = Some(word),
                [libc::IPPROTO_IP, libc::IP_TOS] => found.tos = value[0],
                [libc::IPPROTO_IPV6, libc::IPV6_TCLASS] => found.tos = word as u8,
                _ => {}
            }
            at += (control[at] as usize).div_ceil(8).max(3);
        }
        Some((slot * self.slot_bytes, found))
    }
}

/// Room for the extension headers of an IPv6 packet beside what is small.
const PACKET_CONTROL_WORDS: usize = 128;

/// The control messages of a packet that was read alone.
pub struct Messages {
    words: [u64; PACKET_CONTROL_WORDS],
    used: usize,
}

impl Messages {
    /// None yet.
    pub fn new() -> Messages {
        Messages { words: [0; PACKET_CONTROL_WORDS], used: 0 }
    }

    /// Level, type and value of each, in the order in which they came; cmsg(3) has their form.
    pub fn each(&self, mut take: impl FnMut(i32, i32, &[u8])) {
        let mut bytes = Vec::with_capacity(self.used);
        bytes.extend(self.words.iter().flat_map(|word| word.to_ne_bytes()).take(self.used));
        let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(i32::from_ne_bytes);
        let mut at = 0;
        while let (Some(length), Some(level), Some(kind)) = (number(at), number(at + 8), number(at + 12)) {
            let length = usize::try_from(length).unwrap_or(0);
            let Some(value) = bytes.get(at + 16..at + length) else { return };
            take(level, kind, value);
            at += length.next_multiple_of(8);
        }
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self::new()
    }
}

/// Read one packet, without waiting; its sender, `None` for one of no family of ours.
pub fn receive_packet(
    fd: &OwnedFd,
    into: &mut [u8],
    messages: &mut Messages,
) -> io::Result<(usize, Option<SocketAddr>)> {
    // SAFETY: structures of integers and pointers, for which zero is a value.
    let (mut message, mut name) = unsafe { (zeroed::<libc::msghdr>(), zeroed::<libc::sockaddr_storage>()) };
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = messages.words.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; PACKET_CONTROL_WORDS]>();
    // SAFETY: everything that `message` points to is ours and lives through the call.
    let length = check(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })?;
    messages.used = message.msg_controllen.min(size_of::<[u64; PACKET_CONTROL_WORDS]>());
    Ok((length, RawAddress::read(&name)))
}

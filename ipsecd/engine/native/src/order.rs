//! Several threads send on the same SAs: what left first has the lower number.
//!
//! A thread takes a turn and gives its packets their sequence numbers in one step, seals them beside the others, and
//! hands them in.  Whoever comes when nobody sends sends all that is complete, in order of the turns; the others go on to
//! their next packets.  So sealing, which costs most, is done by all threads at once, nobody waits for a thread that was
//! interrupted, and a peer with the smallest replay window (RFC 4303 3.4.3) sees numbers in order.

use crate::lock;
use crate::udp::RunSender;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// Turns that may wait for the first of them: a limit on memory.
const MAX_TURNS: usize = 16;

/// See the module.
#[derive(Default)]
pub struct Order {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of the turn that `turns` begins with.
    first: u64,
    turns: VecDeque<Option<Sealed>>,
    sending: bool,
    spare: Vec<RunSender>,
}

/// What a turn came to; nothing, where its thread failed.
type Sealed = Option<RunSender>;

/// The right to send after all turns before and ahead of all behind.  One that ends without `send` lets the next go on.
pub struct Turn<'a> {
    order: &'a Order,
    number: u64,
}

impl Order {
    /// Take a turn; `give_numbers` runs before anybody else's takes one.  No thread may have two.
    pub fn turn<T>(&self, give_numbers: impl FnOnce() -> T) -> (Turn<'_>, T) {
        let mut state = lock(&self.state);
        while state.turns.len() >= MAX_TURNS && !state.is_stuck() {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let given = give_numbers();
        let number = state.first + state.turns.len() as u64;
        state.turns.push_back(None);
        (Turn { order: self, number }, given)
    }

    /// Note what a turn came to.
    fn hand_in(&self, number: u64, sealed: Sealed) {
        let mut state = lock(&self.state);
        let at = (number - state.first) as usize;
        state.turns[at] = Some(sealed);
    }
}

impl State {
    /// Whether what is complete waits for somebody to send it: the thread that should have failed.
    fn is_stuck(&self) -> bool {
        !self.sending && matches!(self.turns.front(), Some(Some(_)))
    }
}

impl Turn<'_> {
    /// Hand in what was sealed, and send what is complete by `send`, unless somebody does; `sealed` is empty then.
    pub fn send(self, sealed: &mut RunSender, mut send: impl FnMut(&mut RunSender)) {
        let order = self.order;
        order.hand_in(self.number, Some(std::mem::take(sealed)));
        std::mem::forget(self);
        let mut state = lock(&order.state);
        if !state.sending {
            state.sending = true;
            let sender = Sender { order };
            while let Some(Some(_)) = state.turns.front() {
                state.first += 1;
                let Some(Some(mut next)) = state.turns.pop_front().flatten() else { continue };
                drop(state);
                send(&mut next);
                state = lock(&order.state);
                state.spare.push(next);
            }
            state.sending = false;
            std::mem::forget(sender);
            order.moved.notify_all();
        }
        *sealed = state.spare.pop().unwrap_or_default();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.order.hand_in(self.number, None);
        self.order.moved.notify_all();
    }
}

/// Lets others send where sending failed.
struct Sender<'a> {
    order: &'a Order,
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        lock(&self.order.state).sending = false;
        self.order.moved.notify_all();
    }
}

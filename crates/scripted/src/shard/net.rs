//! What is under way: taken, lost, kept, repeated, damaged, led astray.

use kvserver::handoff::{HandoffCommand, Item};

use crate::shard::message::{Body, Message, Place};
use crate::shard::world::World;

impl World {
    /// Delivers what is under way now and meant, in order. Returns how many.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn deliver(&mut self, meant: impl FnMut(&Message) -> bool) -> Result<usize, String> {
        let messages = self.take(meant);
        let count = messages.len();
        for message in messages {
            self.deliver_one(message)?;
        }
        Ok(count)
    }

    pub(super) fn take(&mut self, mut meant: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let (taken, left) = std::mem::take(&mut self.net).into_iter().partition(|message| meant(message));
        self.net = left;
        taken
    }

    /// Loses what is meant. Returns how many.
    pub fn lose(&mut self, meant: impl FnMut(&Message) -> bool) -> usize {
        self.take(meant).len()
    }

    /// Keeps what is meant until released. Returns how many.
    pub fn hold(&mut self, meant: impl FnMut(&Message) -> bool) -> usize {
        let taken = self.take(meant);
        let count = taken.len();
        self.held.extend(taken);
        count
    }

    /// Keeps copies of what is meant until released. Returns how many.
    pub fn copy(&mut self, mut meant: impl FnMut(&Message) -> bool) -> usize {
        let held = self.held.len();
        self.held.extend(self.net.iter().filter(|message| meant(message)).cloned());
        self.held.len() - held
    }

    /// What was held is under way again.
    pub fn release(&mut self) {
        self.net.append(&mut self.held);
    }

    /// What groups say to each other about transactions, and is meant, goes to another place. Returns how many.
    pub fn redirect(&mut self, to: Place, mut meant: impl FnMut(&Message) -> bool) -> usize {
        let mut count = 0;
        let between = |message: &&mut Message| matches!(message.body, Body::Txn(_));
        for message in self.net.iter_mut().filter(between).filter(|message| meant(message)) {
            message.to = to;
            count += 1;
        }
        count
    }

    /// Changes a byte in the first value of what is meant. Returns how many.
    pub fn damage(&mut self, mut meant: impl FnMut(&Message) -> bool) -> usize {
        self.judge.damaged = true;
        let mut count = 0;
        for message in self.net.iter_mut().filter(|message| meant(message)) {
            let Body::Command(HandoffCommand::Chunk(chunk)) = &mut message.body else { continue };
            let value = chunk.items.iter_mut().find_map(|item| match item {
                Item::Key { value: Some((_, value)), .. } => value.first_mut(),
                Item::Key { value: None, .. } | Item::Row { .. } | Item::Record { .. } => None,
            });
            if let Some(byte) = value {
                *byte = byte.wrapping_add(1);
                count += 1;
            }
        }
        count
    }

    /// What is under way, and what is held.
    pub fn queue(&self) -> Vec<String> {
        let line = |message: &Message, held: &str| format!("{} {message}{held}", message.link());
        let net = self.net.iter().map(|message| line(message, ""));
        net.chain(self.held.iter().map(|message| line(message, ", held"))).collect()
    }
}

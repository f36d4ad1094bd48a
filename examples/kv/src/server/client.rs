//! One client: commands in, replies out, in order.
//!
//! Clients may send many commands before they read a reply (pipelining). Changes that follow each other are all handed to
//! the committer before the first is waited for, so that a pipeline of a hundred of them costs one flush or two. A
//! question waits for the changes before it: a client always sees what it wrote.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kiln::io::{Read, Write};
use kiln::net::{Error, TcpStream};
use kv::command::{Answer, Command, command};
use kv::resp::{MAX_COMMAND, Replies, parse};

use super::Server;
use super::committer::Ticket;

/// Every client has so much memory for its commands; more is shared.
const SMALL_BUFFER: usize = 4096;
/// Replies beyond this are sent before more are made.
const GATHER: usize = 16 * 1024;
/// Changes of one client that wait at the same time.
const MOST_WAITING: usize = 256;
/// A client that says nothing is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// One that does not acknowledge anything for so long is not.
const GIVE_UP: Duration = Duration::from_mins(2);

/// Serves a client until it goes.
pub async fn serve(stream: TcpStream, server: &Server) {
    stream.set_nodelay(true);
    stream.set_keepalive(Some(KEEPALIVE));
    stream.set_timeout(Some(GIVE_UP));
    let mut client = Client {
        stream,
        server,
        input: Input::new(server),
        out: Vec::new(),
        waiting: VecDeque::new(),
    };
    // A client that breaks off knows why.
    let _ = client.run().await;
}

struct Client<'s> {
    stream: TcpStream,
    server: &'s Server,
    input: Input<'s>,
    out: Vec<u8>,
    waiting: VecDeque<(Answer, Ticket)>,
}

impl Client<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let go_on = self.perform_all().await?;
            self.settle().await?;
            self.send().await?;
            if !go_on {
                return self.stream.shutdown().await;
            }
            let Some(room) = self.input.room() else {
                Replies(&mut self.out).error("OOM too many long commands at once; try again later");
                return self.send().await;
            };
            let count = self.stream.read(room).await?;
            if count == 0 {
                return Ok(());
            }
            self.input.received(count);
        }
    }

    /// Performs the commands that have arrived. False if the connection is to end.
    async fn perform_all(&mut self) -> Result<bool, Error> {
        let mut done = 0;
        let go_on = loop {
            let (words, len) = match parse(&self.input.filled()[done..]) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break true,
                Err(malformed) => {
                    self.settle().await?;
                    Replies(&mut self.out).error(malformed);
                    break false;
                }
            };
            let command = command(&words);
            match command {
                _ if words.is_empty() => {}
                Command::Change(change) => {
                    let ticket = self.server.queue.add(change.ops);
                    self.waiting.push_back((change.answer, ticket));
                    if self.waiting.len() == MOST_WAITING {
                        self.settle().await?;
                    }
                }
                Command::Ask(question) => {
                    settle(&mut self.waiting, &mut self.out).await;
                    question.answer(&self.server.view.read(), &mut Replies(&mut self.out));
                }
                Command::Wrong(wrong) => {
                    settle(&mut self.waiting, &mut self.out).await;
                    Replies(&mut self.out).error(wrong);
                }
                Command::Quit => {
                    settle(&mut self.waiting, &mut self.out).await;
                    Replies(&mut self.out).simple("OK");
                    break false;
                }
            }
            done += len;
            if self.out.len() > GATHER {
                self.send().await?;
            }
        };
        self.input.consume(done);
        Ok(go_on)
    }

    async fn settle(&mut self) -> Result<(), Error> {
        settle(&mut self.waiting, &mut self.out).await;
        if self.out.len() > GATHER {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        self.out.shrink_to(2 * GATHER);
        Ok(())
    }
}

/// Waits for the changes under way, and answers them.
async fn settle(waiting: &mut VecDeque<(Answer, Ticket)>, out: &mut Vec<u8>) {
    while let Some((answer, ticket)) = waiting.pop_front() {
        let outcomes = ticket.outcomes().await;
        answer.give(&outcomes, &mut Replies(out));
    }
}

/// What has arrived and is not done yet.
struct Input<'s> {
    server: &'s Server,
    buffer: Vec<u8>,
    filled: usize,
}

impl<'s> Input<'s> {
    fn new(server: &'s Server) -> Self {
        Self {
            server,
            buffer: vec![0; SMALL_BUFFER],
            filled: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    fn received(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.buffer.len());
    }

    /// Room to read into. `None` if there is no memory for a command as long as this one.
    fn room(&mut self) -> Option<&mut [u8]> {
        if self.filled == self.buffer.len() {
            let more = self.buffer.len().min(MAX_COMMAND);
            let left = self.server.command_memory.get().checked_sub(more)?;
            self.server.command_memory.set(left);
            self.buffer.resize(self.buffer.len() + more, 0);
        }
        Some(&mut self.buffer[self.filled..])
    }

    /// Forgets what is done, and returns memory that a long command needed.
    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
        if self.filled < SMALL_BUFFER && self.buffer.len() > SMALL_BUFFER {
            self.give_back();
            self.buffer.truncate(SMALL_BUFFER);
            self.buffer.shrink_to_fit();
        }
    }

    fn give_back(&self) {
        let shared = self.buffer.len() - SMALL_BUFFER;
        let memory = &self.server.command_memory;
        memory.set(memory.get() + shared);
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

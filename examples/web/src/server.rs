//! What the site's connections share: their seats, and the time of day.

mod clock;
pub mod connection;
mod deadline;
mod seats;

use core::time::Duration;

use clock::Clock;
use seats::Seats;

/// How long replies under way may take when the guest is asked to stop.
const FINISH: Duration = Duration::from_secs(5);
/// Memory that a connection takes, in the stack and here, with a margin.
const MEMORY_OF_CONNECTION: usize = 40 * 1024;
const FEWEST_SEATS: usize = 8;
const MOST_SEATS: usize = 4096;

/// The state of the server.
pub struct Server {
    /// Who may be connected.
    pub seats: Seats,
    clock: Clock,
}

impl Server {
    /// A server with as many seats as there is memory for.
    pub fn new() -> Self {
        let seats = kiln::memory::statistics().capacity / MEMORY_OF_CONNECTION;
        Self {
            seats: Seats::new(seats.clamp(FEWEST_SEATS, MOST_SEATS)),
            clock: Clock::new(),
        }
    }

    /// Ends all connections: those that wait for a request at once, others behind the reply they are at. True if all
    /// ended in time.
    pub async fn finish(&self) -> bool {
        self.seats.close();
        kiln::time::timeout(FINISH, self.seats.all_free())
            .await
            .is_ok()
    }
}

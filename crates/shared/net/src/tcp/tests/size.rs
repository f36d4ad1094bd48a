//! What a connection takes.

use kiln_abi::Instant;

use super::dialogue::Dialogue;
use crate::tcp::*;

fn can_be_sent<T: Send>() {}

#[test]
fn a_connection_is_small() {
    let size = size_of::<Tcb>();
    assert!(size <= 704, "{size}");
    // The address translation of a host is made in one thread and runs in another.
    let _: fn() = can_be_sent::<Tcb>;
    assert!(size_of::<time_wait::TimeWait>() <= 56);
}

#[test]
fn an_idle_connection_holds_no_memory() {
    let mut dialogue = Dialogue::new(Seq(5), Seq(6));
    dialogue.play(
        "0 < S 0:0(0) win 65535 <mss 1000>
         0 > S. 0:0(0) ack 1
         0 < . 1:1(0) ack 1 win 65535
         .1 < P. 1:1001(1000) ack 1 win 65535 &
         .1 read 1000 &
         .1 write 1000
         .1 > P. 1:1001(1000) ack 1001
         .2 < . 1001:1001(0) ack 1001 win 65535",
    );
    let tcb = dialogue.tcb();
    assert_eq!(tcb.held(), 0);
    assert_eq!(tcb.deadline(), Instant::FOREVER);
}

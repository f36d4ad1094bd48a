//! What is decided, segment by segment. Sequence numbers count segments of 1000 bytes.

use super::super::*;

const MSS: u32 = 1000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos((ms + 1000) * 1_000_000)
}

fn block(start: u32, end: u32) -> Block {
    Block {
        start: Seq(start * MSS),
        end: Seq(end * MSS),
    }
}

fn blocks(list: &[(u32, u32)]) -> SackBlocks {
    let mut blocks = SackBlocks::default();
    for &(start, end) in list {
        blocks.push(block(start, end));
    }
    blocks
}

/// A sender with ten segments on their way since 0 ms, over a path of 100 ms.
struct Sender {
    recovery: Recovery,
    nxt: u32,
}

impl Sender {
    fn new(sack: bool) -> Self {
        let mut recovery = Recovery::new(Algorithm::Cubic, MSS, sack);
        recovery.measured(Duration::from_millis(100), at(0));
        let mut sender = Self { recovery, nxt: 0 };
        sender.send(10, 0);
        sender
    }

    fn send(&mut self, count: u32, ms: u64) {
        let new = block(self.nxt, self.nxt + count);
        self.recovery.sent(new, Sending::New, ms as u32 + 1, at(ms));
        self.nxt += count;
        self.recovery.check();
    }

    /// Sends the first lost segment again.
    fn again(&mut self, ms: u64) -> u32 {
        let lost = self.recovery.next_lost().expect("something is lost");
        let segment = Block {
            start: lost.start,
            end: lost.end.min(lost.start + MSS),
        };
        self.recovery
            .sent(segment, Sending::Again, ms as u32 + 1, at(ms));
        self.recovery.check();
        segment.start.0 / MSS
    }

    fn ack_with(&mut self, ack: u32, sack: &[(u32, u32)], echoed: Option<u32>, ms: u64) -> Outcome {
        let una = self.recovery.board.una;
        let outcome = self.recovery.acked(
            &Ack {
                ack: Seq(ack * MSS),
                sack: &blocks(sack),
                snd_nxt: Seq(self.nxt * MSS),
                echo_rtt: None,
                echoed,
                duplicate: una == Seq(ack * MSS),
                window_limited: true,
            },
            at(ms),
        );
        self.recovery.check();
        outcome
    }

    fn ack(&mut self, ack: u32, sack: &[(u32, u32)], ms: u64) -> Outcome {
        self.ack_with(ack, sack, None, ms)
    }

    fn due(&self) -> u64 {
        self.recovery.deadline().as_nanos() / 1_000_000 - 1000
    }

    /// Lets the timer expire.
    fn expire(&mut self) -> (u64, Expired) {
        let ms = self.due();
        let expired = self
            .recovery
            .expire(Seq(self.nxt * MSS), true, self.recovery.deadline());
        self.recovery.check();
        (ms, expired)
    }

    fn window(&self) -> u32 {
        self.recovery.congestion().window() / MSS
    }
}

#[test]
fn a_request_and_its_answer_allocate_nothing() {
    let mut sender = Sender::new(true);
    assert!(!sender.recovery.board.records().1);
    assert_eq!(sender.recovery.in_flight(), 10 * MSS);
    assert_eq!(sender.recovery.oldest(), Some(at(0)));
    assert_eq!(sender.ack(10, &[], 100).delivered, 10 * MSS);
    assert_eq!(sender.recovery.deadline(), Instant::FOREVER);
    assert_eq!(
        (sender.recovery.in_flight(), sender.recovery.oldest()),
        (0, None)
    );
    assert_eq!(
        sender.recovery.rtt().smoothed(),
        Some(Duration::from_millis(100))
    );
}

#[test]
fn what_was_sent_before_something_that_arrived_is_lost() {
    let mut sender = Sender::new(true);
    assert_eq!(sender.ack(0, &[(1, 2)], 100).lost, 0);
    // A quarter of the round-trip time is left to it.
    assert_eq!(sender.due(), 126);
    assert_eq!(sender.ack(0, &[(1, 3)], 101).lost, 0);
    // The third report is enough.
    let outcome = sender.ack(0, &[(1, 4)], 102);
    assert_eq!((outcome.lost, outcome.delivered), (MSS, MSS));
    assert!(sender.recovery.is_recovering());
    assert_eq!((sender.window(), sender.recovery.in_flight()), (7, 6 * MSS));
    assert_eq!(sender.again(102), 0);
    assert_eq!(sender.recovery.next_lost(), None);
    sender.ack(0, &[(1, 10)], 110);
    let outcome = sender.ack(10, &[], 202);
    assert!(outcome.recovered && !sender.recovery.is_recovering());
    assert_eq!(sender.window(), 7);
    assert_eq!(sender.recovery.counters().retransmits, 1);
}

#[test]
fn one_report_and_time_are_enough() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 2)], 100);
    assert_eq!(sender.expire(), (126, Expired::Reordering));
    assert_eq!(sender.recovery.next_lost(), Some(block(0, 1)));
    assert!(sender.recovery.allowance() >= MSS);
}

#[test]
fn a_reordering_timer_looked_at_late_is_no_timeout() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 2)], 100);
    let nxt = Seq(sender.nxt * MSS);
    let expired = sender.recovery.expire(nxt, true, at(5000));
    assert_eq!(expired, Expired::Reordering);
    assert!(sender.recovery.deadline() > at(5000));
    assert_eq!(sender.recovery.counters().timeouts, 0);
}

#[test]
fn a_segment_that_was_doubled_on_its_way_takes_no_reduction_back() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 4)], 100);
    assert_eq!(sender.again(100), 0);
    let window = sender.window();
    sender.ack(0, &[(1, 5)], 101);
    // The fifth once more, which nobody has sent again.
    sender.ack(0, &[(4, 5), (1, 5)], 102);
    assert_eq!(sender.recovery.counters().undone, 0);
    assert!(sender.window() <= window);
}

#[test]
fn a_lost_repetition_is_found() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 4)], 100);
    assert_eq!(sender.again(100), 0);
    sender.send(2, 101);
    sender.ack(0, &[(1, 10)], 102);
    assert_eq!(sender.recovery.next_lost(), None);
    // Both new ones have arrived, sent later than the repetition.
    let outcome = sender.ack(0, &[(1, 12)], 201);
    assert_eq!((outcome.lost, sender.again(201)), (MSS, 0));
    assert!(sender.ack(12, &[], 301).recovered);
    assert_eq!(sender.recovery.counters().recoveries, 1);
    assert_eq!(sender.recovery.counters().retransmits, 2);
}

#[test]
fn reordering_is_learnt() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 2)], 100);
    sender.ack(2, &[], 101);
    assert_eq!(sender.ack(2, &[(3, 6)], 102).lost, 0);
    assert_eq!(sender.due(), 128);
    assert_eq!(sender.ack(6, &[], 110).lost, 0);
    assert_eq!(sender.recovery.counters().recoveries, 0);
}

#[test]
fn the_tail_is_probed() {
    let mut sender = Sender::new(true);
    sender.ack(8, &[], 100);
    assert_eq!(sender.expire(), (300, Expired::Probe));
    let tail = sender.recovery.tail().expect("a tail");
    assert_eq!(tail, block(9, 10));
    sender.recovery.sent(tail, Sending::Probe, 301, at(300));
    sender.recovery.check();
    // One probe only.
    assert!(sender.due() >= 500 && sender.recovery.timer == Timer::Retransmission);
    assert_eq!(sender.ack(8, &[(9, 10)], 400).lost, MSS);
    assert_eq!(sender.again(400), 8);
    assert!(sender.ack(10, &[], 500).recovered);
    assert_eq!(sender.recovery.counters().timeouts, 0);
}

#[test]
fn a_probe_that_repaired_a_loss_costs_window() {
    for repeated in [false, true] {
        let mut sender = Sender::new(true);
        sender.ack(9, &[], 100);
        assert_eq!(sender.expire().1, Expired::Probe);
        let tail = sender.recovery.tail().expect("a tail");
        sender.recovery.sent(tail, Sending::Probe, 301, at(400));
        let window = sender.window();
        sender.ack(10, &[], 500);
        if repeated {
            sender.send(1, 501);
            sender.ack(10, &[(9, 10)], 502);
        } else {
            sender.send(1, 501);
        }
        sender.ack(11, &[], 601);
        assert_eq!(sender.window() < window, !repeated);
    }
}

#[test]
fn a_probe_that_came_late_costs_nothing_even_if_all_is_acknowledged() {
    // RFC 8985 section 7.4.2: the D-SACK comes while nothing is on its way.
    let mut sender = Sender::new(true);
    sender.ack(9, &[], 100);
    assert_eq!(sender.expire().1, Expired::Probe);
    let tail = sender.recovery.tail().expect("a tail");
    sender.recovery.sent(tail, Sending::Probe, 301, at(400));
    let window = sender.window();
    sender.ack(10, &[], 500);
    assert_eq!(sender.recovery.timer, Timer::Off);
    sender.ack(10, &[(9, 10)], 501);
    sender.send(1, 502);
    assert_eq!(sender.recovery.timer, Timer::Probe);
    sender.ack(11, &[], 601);
    assert!(sender.window() >= window);
}

#[test]
fn a_late_report_takes_a_reduction_back_and_widens_once() {
    // RFC 3708; RFC 8985 section 6.2 step 4.
    let mut sender = Sender::new(true);
    let window = sender.window();
    sender.ack(0, &[(1, 4)], 100);
    sender.ack(0, &[(1, 4)], 300);
    assert_eq!(sender.again(300), 0);
    assert!(sender.recovery.is_recovering());
    sender.ack(10, &[], 310);
    assert!(sender.window() < window);
    let before = sender.recovery.rack.multiple();
    assert!(sender.ack(10, &[(0, 1)], 400).undone);
    assert!(sender.window() >= window);
    // The network has repeated it.
    assert!(!sender.ack(10, &[(0, 1)], 401).undone);
    assert_eq!(sender.recovery.rack.multiple(), before + 1);
}

#[test]
fn silence_is_a_timeout_and_doubles_the_next() {
    let mut sender = Sender::new(true);
    assert_eq!(sender.expire().1, Expired::Probe);
    let (first, expired) = sender.expire();
    assert_eq!(expired, Expired::Timeout);
    assert_eq!((sender.recovery.in_flight(), sender.window()), (0, 1));
    assert_eq!(sender.recovery.next_lost(), Some(block(0, 10)));
    assert_eq!(sender.again(first), 0);
    let (second, expired) = sender.expire();
    assert_eq!(expired, Expired::Timeout);
    // SRTT is 100 ms and four times RTTVAR 200 ms.
    assert_eq!(second - first, 600);
    assert_eq!(sender.recovery.timeouts_in_a_row(), 2);
    assert_eq!(sender.again(second), 0);
    let oldest = sender.recovery.oldest().expect("something is out");
    assert!(oldest >= at(0) && oldest < at(2));
    sender.ack(1, &[], second + 100);
    assert_eq!(sender.recovery.timeouts_in_a_row(), 0);
    assert_eq!((sender.again(second + 100), sender.window()), (1, 2));
}

#[test]
fn an_echo_of_the_original_takes_a_timeout_back() {
    let mut sender = Sender::new(true);
    sender.expire();
    let (ms, _) = sender.expire();
    sender.again(ms);
    let outcome = sender.ack_with(1, &[], Some(1), ms + 1);
    assert!(outcome.undone && !sender.recovery.is_recovering());
    assert_eq!(
        (sender.recovery.in_flight(), sender.recovery.next_lost()),
        (9 * MSS, None)
    );
    assert!(sender.window() >= 10);
    assert_eq!(sender.recovery.rtt().backed_off(), 0);
}

#[test]
fn an_echo_of_the_repetition_does_not() {
    let mut sender = Sender::new(true);
    sender.expire();
    let (ms, _) = sender.expire();
    sender.again(ms);
    let outcome = sender.ack_with(1, &[], Some(ms as u32 + 1), ms + 100);
    assert!(!outcome.undone && sender.recovery.is_recovering());
}

#[test]
fn data_that_arrive_late_take_a_timeout_back() {
    let mut sender = Sender::new(true);
    sender.expire();
    let (ms, _) = sender.expire();
    sender.again(ms);
    // Nobody has sent the second and third segment again.
    assert!(sender.ack(3, &[], ms + 1).undone);
    assert_eq!(sender.recovery.in_flight(), 7 * MSS);
}

#[test]
fn repetitions_reported_as_such_take_a_reduction_back() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(2, 5)], 100);
    assert_eq!((sender.again(100), sender.again(100)), (0, 1));
    assert_eq!(sender.window(), 7);
    assert!(sender.ack(5, &[], 105).delivered > 0);
    assert!(!sender.ack(10, &[(0, 1)], 200).undone);
    sender.send(1, 201);
    assert!(sender.ack(10, &[(1, 2)], 202).undone);
    assert!(sender.window() >= 10);
}

#[test]
fn a_peer_that_drops_what_it_reported_gets_it_again() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 10)], 100);
    sender.again(100);
    // It acknowledges the first and has forgotten the others.
    sender.ack(1, &[], 200);
    assert_eq!(
        (sender.recovery.in_flight(), sender.recovery.next_lost()),
        (0, None)
    );
    let (_, expired) = sender.expire();
    assert_eq!(expired, Expired::Timeout);
    assert_eq!(sender.recovery.next_lost(), Some(block(1, 10)));
}

#[test]
fn without_sack_three_duplicates_and_partial_acknowledgements_count() {
    let mut sender = Sender::new(false);
    for ms in [100, 101] {
        assert_eq!(sender.ack(0, &[], ms).lost, 0);
    }
    // Limited transmit, RFC 3042.
    assert_eq!(sender.recovery.in_flight(), 8 * MSS);
    assert_eq!(sender.ack(0, &[], 102).lost, MSS);
    assert_eq!(sender.again(102), 0);
    for ms in 103..108 {
        sender.ack(0, &[], ms);
    }
    let outcome = sender.ack(4, &[], 202);
    assert_eq!(outcome.lost, MSS);
    assert_eq!(sender.again(202), 4);
    assert!(sender.ack(10, &[], 302).recovered);
    assert_eq!(sender.recovery.counters().recoveries, 1);
    // Duplicates of old data start nothing.
    sender.send(5, 303);
    for ms in 304..310 {
        assert_eq!(sender.ack(10, &[], ms).lost, 0);
    }
}

#[test]
fn a_mark_reduces_once_in_a_round_trip() {
    let mut sender = Sender::new(true);
    assert!(sender.recovery.marked(Seq(10 * MSS), at(100)));
    assert_eq!(sender.window(), 7);
    assert!(!sender.recovery.marked(Seq(10 * MSS), at(101)));
    sender.ack(5, &[], 102);
    assert!(!sender.recovery.marked(Seq(10 * MSS), at(103)));
    sender.send(5, 104);
    sender.ack(10, &[], 105);
    assert!(sender.recovery.marked(Seq(15 * MSS), at(106)));
    assert_eq!(sender.window(), 5);
}

#[test]
fn what_the_link_refuses_is_no_congestion() {
    let mut sender = Sender::new(true);
    sender.recovery.not_sent(block(4, 10), at(0));
    sender.recovery.check();
    assert_eq!(sender.recovery.in_flight(), 4 * MSS);
    assert_eq!(sender.recovery.next_lost(), Some(block(4, 10)));
    for segment in 4..10 {
        assert_eq!(sender.again(1), segment);
    }
    let outcome = sender.ack(10, &[], 101);
    assert_eq!(
        (outcome.delivered, sender.recovery.counters().recoveries),
        (10 * MSS, 0)
    );
    assert_eq!(
        sender.recovery.rtt().minimum(),
        Some(Duration::from_millis(100))
    );
}

#[test]
fn a_lost_syn_leaves_the_window_alone() {
    let mut recovery = Recovery::new(Algorithm::Cubic, 536, true);
    let syn = Block {
        start: Seq(u32::MAX),
        end: Seq(0),
    };
    recovery.sent(syn, Sending::New, 1, at(0));
    assert_eq!(recovery.deadline(), at(1000));
    assert_eq!(recovery.expire(Seq(0), false, at(1000)), Expired::Timeout);
    assert_eq!(recovery.next_lost(), Some(syn));
    recovery.sent(syn, Sending::Again, 1001, at(1000));
    assert_eq!(recovery.deadline(), at(3000));
    recovery.set_peer(1000, true);
    let ack = Ack {
        ack: Seq(0),
        sack: &SackBlocks::default(),
        snd_nxt: Seq(0),
        echo_rtt: None,
        echoed: Some(1001),
        duplicate: false,
        window_limited: false,
    };
    assert_eq!(recovery.acked(&ack, at(1100)).delivered, 1);
    recovery.check();
    assert_eq!(recovery.allowance(), 10_000);
    assert!(!recovery.is_recovering());
}

#[test]
fn a_connection_begun_with_a_cookie_works() {
    let mut recovery = Recovery::new(Algorithm::Cubic, 1000, true);
    let ack = Ack {
        ack: Seq(7),
        sack: &SackBlocks::default(),
        snd_nxt: Seq(7),
        echo_rtt: Some(Duration::from_millis(30)),
        echoed: Some(1),
        duplicate: false,
        window_limited: false,
    };
    assert_eq!(recovery.acked(&ack, at(0)), Outcome::default());
    let data = Block {
        start: Seq(7),
        end: Seq(100),
    };
    recovery.sent(data, Sending::New, 0, at(0));
    assert_eq!((recovery.in_flight(), recovery.deadline()), (93, at(1000)));
    let ack = Ack {
        ack: Seq(100),
        snd_nxt: Seq(100),
        ..ack
    };
    assert_eq!(recovery.acked(&ack, at(10)).delivered, 93);
}

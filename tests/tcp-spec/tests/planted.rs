//! Every rule against a conversation that keeps it, and the same with one violation planted.

use kiln_tcp_spec::dialogue::Dialogue;
use kiln_tcp_spec::segment::{Codepoint, Flags};

/// One test a rule, named like it. The conversation is led twice: rightly, and with `wrong` set. Rules in `also` may be
/// broken by the way.
macro_rules! planted {
    ($($rule:ident $(also $($also:literal),+)?: |$talk:ident, $wrong:ident| $conversation:block)*) => {
        $(#[test]
        fn $rule() {
            let lead = |$wrong: bool| {
                let mut dialogue = Dialogue::new();
                let $talk = &mut dialogue;
                $conversation
                dialogue
            };
            lead(false).is_right();
            let name = stringify!($rule).replace('_', "-");
            let report = lead(true).report();
            let mut counts = report.counts();
            assert!(counts.remove(name.as_str()).is_some(), "{name} is not found: {report}");
            $($(counts.remove($also);)+)?
            assert!(counts.is_empty(), "more than {name} is found: {report}");
        })*

        #[test]
        fn every_rule_has_a_planted_violation() {
            let planted = [$(stringify!($rule).replace('_', "-")),*];
            for rule in kiln_tcp_spec::rules::all() {
                assert!(planted.iter().any(|name| name == rule.name), "none for {}", rule.name);
            }
        }
    };
}

const FULL: usize = 1448;

fn either<T>(wrong: bool, if_wrong: T, else_right: T) -> T {
    if wrong { if_wrong } else { else_right }
}

planted! {
    checksum: |talk, wrong| {
        talk.handshake();
        talk.host(100).checksum_ok = !wrong;
    }

    flags: |talk, wrong| {
        talk.peer_syn();
        let answer = talk.host_syn_ack();
        if wrong {
            answer.flags = answer.flags | Flags::FIN;
        }
    }

    reserved_bits: |talk, wrong| {
        talk.handshake();
        let data = talk.host(100);
        if wrong {
            data.flags.0 |= 0x100;
        }
    }

    ack_always also "timestamps-echo-syn": |talk, wrong| {
        talk.handshake();
        let data = talk.host(100);
        if wrong {
            data.flags = Flags::PSH;
            data.ack = 0;
        }
    }

    options: |talk, wrong| {
        talk.handshake();
        talk.host(100).options.malformed = wrong;
    }

    options_of_syn: |talk, wrong| {
        talk.handshake();
        talk.host(100).options.mss = wrong.then_some(1460);
    }

    window_scale_unoffered: |talk, wrong| {
        talk.peer.syn.window_scale = None;
        talk.host.syn.window_scale = wrong.then_some(7);
        talk.handshake();
    }

    window_scale_limit: |talk, wrong| {
        talk.host.syn.window_scale = Some(either(wrong, 15, 14));
        talk.handshake();
    }

    sack_unoffered: |talk, wrong| {
        talk.peer.syn.sack_permitted = false;
        talk.host.syn.sack_permitted = wrong;
        talk.handshake();
    }

    timestamps_unoffered: |talk, wrong| {
        talk.peer.syn.timestamps = None;
        talk.host.syn.timestamps = wrong.then_some((5, 0));
        talk.handshake();
    }

    mss: |talk, wrong| {
        talk.peer.syn.mss = Some(1000);
        talk.handshake();
        // Twelve bytes of options count.
        talk.host(either(wrong, 989, 988));
    }

    syn_changed: |talk, wrong| {
        talk.host_syn();
        talk.wait(1000);
        talk.host_syn().seq += u32::from(wrong);
    }

    syn_ack_number also "ack-unreceived": |talk, wrong| {
        talk.peer_syn();
        talk.host_syn_ack().ack += u32::from(wrong);
    }

    data_before_handshake: |talk, wrong| {
        talk.host_syn();
        if wrong {
            talk.host(10);
        }
    }

    isn_reuse: |talk, wrong| {
        talk.handshake();
        talk.host(1000);
        talk.wait(20).peer_acks();
        talk.close();
        talk.wait(1000);
        let last = talk.host.next;
        talk.next_incarnation(either(wrong, last.wrapping_sub(10), last.wrapping_add(10)));
        talk.handshake();
    }

    isn_predictable: |talk, wrong| {
        talk.handshake();
        talk.peer.address.set_port(4001);
        let isn = talk.host.isn;
        talk.next_incarnation(either(wrong, isn, isn.wrapping_add(7777)));
        talk.handshake();
    }

    sequence_gap: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.host.next = talk.host.next.wrapping_add(either(wrong, 50, 0));
        talk.host(100);
    }

    retransmission_differs: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(1000).host_again(100, 100).payload[50] ^= u8::from(wrong);
        talk.wait(20).peer_acks();
    }

    data_after_fin: |talk, wrong| {
        talk.handshake();
        talk.host_fin();
        talk.wait(20).peer_acks();
        if wrong {
            talk.host(10);
        }
    }

    fin_moved: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.host_fin();
        let again = talk.wait(1000).host_again(101, either(wrong, 50, 100));
        again.flags = again.flags | Flags::FIN;
    }

    beyond_window: |talk, wrong| {
        talk.peer.window = 2;
        talk.handshake();
        talk.host(256);
        if wrong {
            talk.host(10);
        }
        talk.wait(20).peer_acks();
    }

    ack_unreceived: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks().ack += either(wrong, 10, 0);
    }

    ack_backwards: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        talk.host_acks().ack -= either(wrong, 100, 0);
    }

    empty_sequence: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(20).peer_acks();
        let ack = talk.wait(50).host_acks();
        ack.seq = ack.seq.wrapping_sub(either(wrong, 50, 0));
    }

    window_shrunk: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        talk.peer(100);
        talk.host.window = either(wrong, 100, 512);
        talk.host_acks();
    }

    silly_window_receiver: |talk, wrong| {
        talk.host.syn.window_scale = Some(2);
        talk.host.syn_window = 512;
        talk.handshake();
        // The SYN's window, which is not scaled, is filled.
        talk.peer(512);
        talk.host.window = 0;
        talk.host_acks();
        talk.wait(100);
        talk.host.window = either(wrong, 10, 128);
        talk.host_acks();
    }

    silly_window_sender: |talk, wrong| {
        talk.peer.window = 20;
        talk.handshake();
        talk.host(FULL);
        talk.host(2560 - FULL);
        talk.wait(20);
        talk.peer.window = 10;
        talk.peer_acks_but(2560 - FULL as u32);
        talk.wait(20);
        if wrong {
            talk.host(168);
        }
        talk.peer_acks();
    }

    probe_interval: |talk, wrong| {
        talk.peer.window = 2;
        talk.handshake();
        talk.host(256);
        talk.wait(20);
        talk.peer.window = 0;
        talk.peer_acks();
        talk.wait(300).host(1);
        talk.wait(600).host_again(1, 1);
        talk.wait(either(wrong, 100, 1200)).host_again(1, 1);
    }

    ack_late: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.wait(either(wrong, 700, 300)).host_acks();
    }

    ack_every_second: |talk, wrong| {
        talk.host.window = 20_000;
        talk.handshake();
        for _ in 0..6 {
            talk.peer(FULL);
        }
        talk.wait(either(wrong, 300, 1)).host_acks();
    }

    ack_out_of_order: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.wait(either(wrong, 300, 10)).host_sacks(&[(100, 0)]);
        talk.peer_again(200, 100);
        talk.host_acks();
    }

    ack_excess: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        for _ in 0..either(wrong, 5, 0) {
            talk.host_acks();
        }
    }

    half_close_data: |talk, wrong| {
        talk.handshake();
        talk.host_fin();
        talk.wait(20).peer_acks();
        talk.peer(100);
        if !wrong {
            talk.host_acks();
        }
    }

    sack_not_permitted: |talk, wrong| {
        talk.peer.syn.sack_permitted = false;
        talk.host.syn.sack_permitted = false;
        talk.handshake();
        talk.peer_loses(100).peer(100);
        if wrong {
            talk.host_sacks(&[(100, 0)]);
        } else {
            talk.host_acks();
        }
    }

    sack_unreceived: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.host_sacks(&[(either(wrong, 150, 100), 0)]);
    }

    sack_form: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.host_sacks(either(wrong, &[(100, 0), (50, 50)], &[(100, 0)]));
    }

    sack_first: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.host_sacks(&[(100, 0)]);
        talk.wait(20).peer_loses(100).peer(100);
        talk.wait(20);
        talk.host_sacks(&either(wrong, [(300, 200), (100, 0)], [(100, 0), (300, 200)]));
    }

    sack_duplicate: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        if !wrong {
            talk.peer_again(100, 100);
        }
        talk.host_sacks(&[(100, 0)]);
    }

    sack_stale: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.host_sacks(&[(100, 0)]);
        talk.peer_again(200, 100);
        talk.host_sacks(either(wrong, &[(100, 0)], &[]));
    }

    sack_missing: |talk, wrong| {
        talk.handshake();
        talk.peer_loses(100).peer(100);
        talk.host_sacks(&[(100, 0)]);
        talk.wait(50).peer(100);
        talk.host_sacks(either(wrong, &[], &[(200, 0)]));
    }

    retransmits_sacked: |talk, wrong| {
        talk.handshake();
        for _ in 0..3 {
            talk.host(1000);
        }
        talk.wait(20).peer_sacks(3000, &[(2000, 0)]);
        talk.wait(20).host_again(either(wrong, 2000, 3000), 1000);
        talk.wait(20).peer_acks();
    }

    timestamps_missing: |talk, wrong| {
        talk.handshake();
        let data = talk.host(100);
        if wrong {
            data.options.timestamps = None;
        }
    }

    timestamps_uninvited: |talk, wrong| {
        talk.peer.syn.timestamps = None;
        talk.host.syn.timestamps = None;
        talk.handshake();
        talk.host(100).options.timestamps = wrong.then_some((1, 1));
    }

    timestamps_backwards: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        let data = talk.host(100);
        data.options.timestamps = data.options.timestamps.map(|(value, echo)| (value - either(wrong, 1000, 0), echo));
    }

    timestamps_echo: |talk, wrong| {
        talk.handshake();
        talk.wait(5).peer_loses(100);
        let (value, _) = talk.peer(100).options.timestamps.expect("timestamps");
        let answer = talk.host_sacks(&[(100, 0)]);
        if wrong {
            answer.options.timestamps = answer.options.timestamps.map(|(own, _)| (own, value));
        }
    }

    timestamps_echo_stale: |talk, wrong| {
        talk.handshake();
        let (value, _) = talk.peer(100).options.timestamps.expect("timestamps");
        talk.host_acks();
        talk.wait(50).peer(100);
        let answer = talk.wait(20).host_acks();
        if wrong {
            answer.options.timestamps = answer.options.timestamps.map(|(own, _)| (own, value));
        }
    }

    timestamps_echo_syn: |talk, wrong| {
        talk.host_syn().options.timestamps = Some((5, u32::from(wrong)));
    }

    paws also "timestamps-echo": |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        let old = talk.wait(100).peer(100);
        old.options.timestamps = old.options.timestamps.map(|(value, echo)| (value - either(wrong, 5000, 0), echo));
        talk.host_acks();
    }

    retransmission_early: |talk, wrong| {
        // The handshake's round trip took 20 ms.
        talk.handshake();
        talk.host(100);
        talk.wait(either(wrong, 5, 300)).host_again(100, 100);
        talk.wait(20).peer_acks();
    }

    rto_minimum: |talk, wrong| {
        talk.handshake();
        talk.host(1000);
        talk.host(1000);
        talk.wait(either(wrong, 50, 300)).host_again(2000, 1000);
        talk.wait(20).peer_acks();
    }

    rto_backoff: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(300).host_again(100, 100);
        talk.wait(600).host_again(100, 100);
        talk.wait(either(wrong, 600, 1200)).host_again(100, 100);
        talk.wait(20).peer_acks();
    }

    rto_initial: |talk, wrong| {
        talk.host_syn();
        talk.wait(either(wrong, 300, 1000)).host_syn();
    }

    initial_window: |talk, wrong| {
        talk.handshake();
        for _ in 0..10 {
            talk.host(FULL);
        }
        // A probe of the tail may come later, but not at once.
        talk.wait(either(wrong, 0, 40)).host(FULL);
    }

    slow_start: |talk, wrong| {
        talk.handshake();
        for _ in 0..10 {
            talk.host(FULL);
        }
        talk.wait(20).peer_acks();
        for _ in 0..either(wrong, 30, 20) {
            talk.host(FULL);
        }
    }

    multiplicative_decrease: |talk, wrong| {
        talk.handshake();
        for _ in 0..10 {
            talk.host(FULL);
        }
        talk.wait(20).peer_acks();
        for _ in 0..20 {
            talk.host(FULL);
        }
        let one = FULL as u32;
        talk.wait(20).peer_sacks(20 * one, &[(19 * one, 0)]);
        talk.host_again(20 * one, FULL);
        talk.wait(20).peer_acks();
        talk.wait(20);
        for _ in 0..either(wrong, 40, 20) {
            talk.host(FULL);
        }
    }

    loss_window: |talk, wrong| {
        talk.handshake();
        for _ in 0..5 {
            talk.host(FULL);
        }
        let one = FULL as u32;
        talk.wait(300).host_again(5 * one, FULL);
        if wrong {
            talk.host_again(4 * one, FULL);
        }
        talk.wait(20).peer_acks();
    }

    idle_restart: |talk, wrong| {
        talk.handshake();
        for _ in 0..10 {
            talk.host(FULL);
        }
        talk.wait(20).peer_acks();
        talk.wait(3000);
        for _ in 0..either(wrong, 15, 10) {
            talk.host(FULL);
        }
    }

    reset_sequence: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(20).peer_acks();
        let reset = talk.wait(20).host_rst();
        reset.seq = reset.seq.wrapping_add(either(wrong, 5000, 0));
    }

    reset_response: |talk, wrong| {
        talk.peer_syn();
        talk.host_rst().seq = either(wrong, 77, 0);
    }

    reset_of_reset: |talk, wrong| {
        talk.peer_rst();
        if wrong {
            talk.host_rst();
        }
    }

    sent_after_reset: |talk, wrong| {
        talk.handshake();
        talk.peer_rst();
        talk.wait(50);
        if wrong {
            talk.host(100);
        }
    }

    blind_reset: |talk, wrong| {
        talk.handshake();
        let forged = talk.peer_rst();
        forged.seq = forged.seq.wrapping_add(100);
        talk.wait(5).host_acks();
        talk.wait(5).peer(100);
        if wrong {
            let refusal = talk.host_rst();
            refusal.flags = Flags::RST;
            refusal.ack = 0;
        } else {
            talk.host_acks();
        }
    }

    blind_syn: |talk, wrong| {
        talk.handshake();
        talk.wait(1500);
        let next = talk.peer.next;
        talk.segment(false, Flags::SYN, next.wrapping_add(100), 0);
        talk.peer.next = next;
        if wrong {
            talk.host_rst();
        } else {
            talk.host_acks();
        }
    }

    blind_data also "timestamps-echo": |talk, wrong| {
        talk.handshake();
        let forged = talk.wait(10).peer(100);
        forged.ack = forged.ack.wrapping_add(either(wrong, 100_000, 0));
        talk.host_acks();
    }

    challenge_ack: |talk, wrong| {
        talk.handshake();
        talk.wait(1500);
        let forged = talk.peer_rst();
        forged.seq = forged.seq.wrapping_add(100);
        if !wrong {
            talk.host_acks();
        }
    }

    fin_unanswered: |talk, wrong| {
        talk.handshake().close();
        let fin = talk.peer.next.wrapping_sub(1);
        talk.wait(1000).segment(false, Flags::FIN | Flags::ACK, fin, 0);
        if !wrong {
            talk.host_acks();
        }
    }

    time_wait_short: |talk, wrong| {
        talk.handshake().close();
        let fin = talk.peer.next.wrapping_sub(1);
        talk.wait(1000).segment(false, Flags::FIN | Flags::ACK, fin, 0);
        if wrong {
            let refusal = talk.host_rst();
            refusal.flags = Flags::RST;
        } else {
            talk.host_acks();
        }
    }

    keepalive_form: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(20).peer_acks();
        talk.wait(1000).host_again(1, either(wrong, 2, 1));
    }

    keepalive_busy: |talk, wrong| {
        talk.handshake();
        talk.host(100);
        talk.wait(20).peer_acks();
        talk.host(100);
        talk.wait(50);
        if wrong {
            talk.host_again(101, 0);
        }
    }

    keepalive_unanswered: |talk, wrong| {
        talk.handshake();
        talk.peer(100);
        talk.host_acks();
        talk.wait(2000).peer_again(1, 1);
        if !wrong {
            talk.host_acks();
        }
    }

    urgent_backwards: |talk, wrong| {
        talk.handshake();
        for pointer in [500, either(wrong, 100, 400)] {
            let data = talk.host(100);
            data.flags = data.flags | Flags::URG;
            data.urgent = pointer;
        }
    }

    urgent_stray: |talk, wrong| {
        talk.handshake();
        talk.host(100).urgent = u16::from(wrong);
    }

    urgent_nowhere: |talk, wrong| {
        talk.handshake();
        let data = talk.host(100);
        data.flags = data.flags | Flags::URG;
        data.urgent = either(wrong, 0, 100);
    }

    ecn_setup: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.peer_syn();
        let answer = talk.host_syn_ack();
        if wrong {
            answer.flags = answer.flags | Flags::CWR;
        }
    }

    ecn_uninvited: |talk, wrong| {
        talk.handshake();
        if wrong {
            talk.host(100).ecn = Codepoint::Ect0;
        }
    }

    ecn_control: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.handshake();
        talk.peer(100);
        talk.host_acks().ecn = either(wrong, Codepoint::Ect0, Codepoint::NotEct);
    }

    ecn_retransmission: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.handshake();
        talk.host(100);
        talk.wait(300).host_again(100, 100).ecn = either(wrong, Codepoint::Ect0, Codepoint::NotEct);
        talk.wait(20).peer_acks();
    }

    ecn_echo: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.handshake();
        talk.peer(100).ecn = Codepoint::Ce;
        let answer = talk.host_acks();
        if !wrong {
            answer.flags = answer.flags | Flags::ECE;
        }
    }

    ecn_cwr_missing: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.handshake();
        talk.host(100);
        let echo = talk.wait(20).peer_acks();
        echo.flags = echo.flags | Flags::ECE;
        let data = talk.wait(20).host(100);
        if !wrong {
            data.flags = data.flags | Flags::CWR;
        }
    }

    ecn_cwr_uncalled: |talk, wrong| {
        talk.peer.ecn = true;
        talk.host.ecn = true;
        talk.handshake();
        let data = talk.host(100);
        if wrong {
            data.flags = data.flags | Flags::CWR;
        }
    }

    pmtu_ignored: |talk, wrong| {
        talk.handshake();
        talk.host(FULL);
        talk.too_big(1400);
        talk.wait(20).host_again(FULL as u32, either(wrong, FULL, 1348));
        talk.wait(20).peer_acks();
    }
}

/// What a time-out has declared lost is sent again in slow start, not one segment a time-out.
#[test]
fn after_a_timeout_acknowledgments_release_the_rest() {
    let mut talk = Dialogue::new();
    talk.handshake();
    for _ in 0..5 {
        talk.host(FULL);
    }
    let one = FULL as u32;
    talk.wait(300).host_again(5 * one, FULL);
    talk.wait(20).peer_acks_but(4 * one);
    talk.host_again(4 * one, FULL);
    talk.host_again(3 * one, FULL);
    talk.wait(20).peer_acks();
    talk.is_right();
}

/// A retransmission that proves a mistake, by the timestamp that comes back (RFC 3522), takes the reduction back.
#[test]
fn a_reduction_may_be_taken_back() {
    let mut talk = Dialogue::new();
    talk.handshake();
    for _ in 0..10 {
        talk.host(FULL);
    }
    let sent = talk.now.as_millis() as u32 + talk.host.clock;
    talk.wait(20).peer_acks();
    for _ in 0..20 {
        talk.host(FULL);
    }
    let one = FULL as u32;
    talk.wait(20).peer_sacks(20 * one, &[(19 * one, 0)]);
    talk.host_again(20 * one, FULL);
    let ack = talk.wait(1).peer_acks();
    ack.options.timestamps = ack.options.timestamps.map(|(value, _)| (value, sent));
    talk.wait(20);
    for _ in 0..40 {
        talk.host(FULL);
    }
    talk.is_right();
}

#[test]
fn a_connection_opened_by_the_host_is_right() {
    let mut talk = Dialogue::new();
    talk.host_opens();
    for _ in 0..100 {
        talk.host(FULL);
        talk.wait(20).peer_acks();
        talk.peer(200);
        talk.host_acks();
    }
    talk.close();
    talk.is_right();
}

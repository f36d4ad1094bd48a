//! Path MTU: RFC 1191, RFC 8201, RFC 5927, RFC 8899.

use super::dialogue::run;

#[test]
fn a_router_may_say_that_packets_are_too_big() {
    run("
        set gso 65536
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        .1 write 2920
        .1 > P. 1:2921(2920) ack 1
        .2 too_big 1220 1
        .2 mss 1200
        # Again and at once, in smaller segments; congestion control sees nothing of it.
        .2 > P. 1:2921(2920) ack 1
        .3 < . 1:1(0) ack 2921 win 65535
        .3 write 12000
        .3 > P. 2921:14921(12000) ack 1
    ");
}

#[test]
fn lies_about_the_path_are_not_believed() {
    run("
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        # Nothing is on its way.
        .1 too_big 1220 1
        .1 mss 1460
        .1 write 100
        .1 > P. 1:101(100) ack 1
        .2 too_big 1220 500
        .2 too_big 1220 -1
        .2 mss 1460
        # Larger than before.
        .2 too_big 1600 1
        .2 mss 1460
        # Absurdly small.
        .2 too_big 10 1
        .2 mss 536
        .2 > P. 1:101(100) ack 1
    ");
}

#[test]
fn a_black_hole_is_found_and_left() {
    run("
        set probe_mtu
        0 < S 0:0(0) win 65535 <mss 1460>
        0 > S. 0:0(0) ack 1
        .1 < . 1:1(0) ack 1 win 65535
        .1 write 1460
        .1 > P. 1:1461(1460) ack 1
        .2~.7 > P. 1:1461(1460) ack 1
        .5~2 > . 1:1025(1024) ack 1
        +0 > P. 1025:1461(436) ack 1
        +.01 < . 1:1(0) ack 1461 win 65535
        +0 mss 1024
        +1 write 2000
        +0 > . 1461:2485(1024) ack 1
        +0 > P. 2485:3461(976) ack 1
        +.01 < . 1:1(0) ack 3461 win 65535
        # Ten minutes later a larger one is tried.
        700 write 9000
        700 > . 3461:4921(1460) ack 1
        +0 > . 4921:5945(1024) ack 1
        +.01 < . 1:1(0) ack 5945 win 65535
        +0 mss 1460
        +0 > . 5945:7405(1460) ack 1
        +0 > . 7405:8865(1460) ack 1
        +0 > . 8865:10325(1460) ack 1
        +.01 < . 1:1(0) ack 10325 win 65535
        +0 > . 10325:11785(1460) ack 1
        +0 > P. 11785:12461(676) ack 1
    ");
}

//! Packet dialogues, and what else is tested of whole connections.

/// A dialogue that goes on from an established connection without options.
macro_rules! established {
    ($($script:literal)*) => {
        $crate::tcp::tests::dialogue::run(concat!(
            "0 < S 0:0(0) win 65535 <mss 1000>\n",
            "0 > S. 0:0(0) ack 1\n",
            "0 < . 1:1(0) ack 1 win 65535\n",
            $($script)*
        ))
    };
}

mod any;
mod closing;
mod data;
mod dialogue;
mod hostile;
mod loss;
mod opening;
mod options;
mod path;
mod peers;
mod script;
mod size;
mod states;
mod taken;
mod time_wait;
mod timers;

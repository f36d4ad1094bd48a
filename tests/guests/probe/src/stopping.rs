//! Programs that run until somebody stops them, politely or not.

use core::hint::black_box;

use kiln::println;
use kiln::time::{Duration, sleep};

pub async fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    match case {
        "wait" => {
            println!("ready");
            core::future::pending::<()>().await;
        }
        "graceful" => {
            println!("ready");
            let signal = kiln::shutdown::requested_signal().await;
            println!("signal {signal}");
            sleep(Duration::from_millis(50)).await;
            println!("cleaned up");
            return Some(crate::number(args, 0) as u8);
        }
        "stubborn" => {
            println!("ready");
            loop {
                let signal = kiln::shutdown::requested_signal().await;
                println!("ignoring {signal}");
            }
        }
        "spin" => {
            println!("ready");
            loop {
                black_box(());
            }
        }
        "flood" => {
            for n in 0u64.. {
                println!("flood {n} {:x<100}", "");
            }
        }
        "ticking" => {
            for n in 0u64.. {
                println!("tick {n}");
                sleep(Duration::from_millis(crate::number(args, 0))).await;
            }
        }
        _ => return None,
    }
    Some(1)
}

//! Reno: RFC 5681, with the byte counting of RFC 3465 in congestion avoidance.

/// By how much a window grows in congestion avoidance for `bytes` newly acknowledged: one segment for each window of
/// them. `credit` counts those that have not made it grow yet.
pub(super) fn growth(credit: &mut u32, bytes: u32, window: u32, mss: u32) -> u32 {
    *credit = credit.saturating_add(bytes);
    if *credit < window {
        return 0;
    }
    // More than one window at once is a peer's joke.
    *credit = (*credit - window).min(window);
    mss
}

/// The threshold after a loss, RFC 5681 equation 4.
pub(super) fn reduced(in_flight: u32) -> u32 {
    in_flight / 2
}

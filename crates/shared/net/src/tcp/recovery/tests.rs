use super::*;

#[test]
fn a_connection_needs_little() {
    assert!(size_of::<Recovery>() <= 320, "{}", size_of::<Recovery>());
}

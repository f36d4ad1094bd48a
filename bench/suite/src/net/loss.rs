//! Stub.
use crate::Result;
use crate::place::Place;
use crate::setting::Setting;
/// Stub.
pub fn run(_: &Setting, _: &Place) -> Result<()> {
    println!("skipped: no relay");
    Ok(())
}

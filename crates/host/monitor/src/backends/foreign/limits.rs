//! How much a machine may be told. Pure arithmetic, for monitors that are started here and for those that
//! `kiln export` writes for.

use super::Error;

/// The most bytes of command line that the machine part keeps (`docs/machine.md`, section 3).
const MAX_LINE: usize = 4095;

/// The most that Firecracker passes on, its own words for devices included.
const FIRECRACKER_LINE: usize = 2047;

/// What a monitor appends for each virtio-mmio device, ` virtio_mmio.device=512@0xfeb00000:16`, and some.
const DEVICE_WORD: usize = 45;

/// Firecracker gives each device an interrupt of its own, from 5 to 23; one is for random numbers.
const FIRECRACKER_DEVICES: usize = 18;

/// Refuses a command line of `length` bytes that would be cut off, where a word is `appended` for so many devices.
///
/// # Errors
/// [`Error::Unable`].
pub fn check_line(length: usize, appended: usize) -> Result<(), Error> {
    check(length, MAX_LINE, appended, "a virtual machine's kernel")
}

/// Refuses what Firecracker has no room for; `devices` without the one for random numbers.
///
/// # Errors
/// [`Error::Unable`].
pub fn check_firecracker(length: usize, devices: usize) -> Result<(), Error> {
    if devices > FIRECRACKER_DEVICES {
        return Err(Error::Unable(format!(
            "Firecracker has room for {FIRECRACKER_DEVICES} devices, and this image has {devices}: use qemu"
        )));
    }
    check(length, FIRECRACKER_LINE, devices + 1, "Firecracker")
}

fn check(length: usize, most: usize, appended: usize, who: &str) -> Result<(), Error> {
    let most = most.saturating_sub(appended.saturating_mul(DEVICE_WORD));
    if length <= most {
        return Ok(());
    }
    Err(Error::Unable(format!(
        "arguments and environment come to a command line of {length} bytes, and {who} has room for {most}: shorten them (the backends process and kvm have no such limit)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_that_would_be_cut_off_are_refused() {
        assert!(check_line(4095, 0).is_ok());
        let error = check_line(4096, 0).unwrap_err().to_string();
        assert!(error.contains("4096 bytes") && error.contains("room for 4095"));
        assert!(error.contains("process and kvm have no such limit"));
        assert!(check_line(4095 - 8 * 45, 8).is_ok());
        assert!(check_line(4096 - 8 * 45, 8).is_err());
    }

    #[test]
    fn firecracker_has_less_room() {
        assert!(check_firecracker(2047 - 45, 0).is_ok());
        let error = check_firecracker(2047 - 44, 0).unwrap_err().to_string();
        assert!(error.contains("2003 bytes"), "{error}");
        assert!(check_firecracker(1000, 18).is_ok());
        for devices in [19, 32, 64, usize::MAX] {
            let error = check_firecracker(10, devices).unwrap_err().to_string();
            assert!(error.contains("room for 18 devices"), "{error}");
        }
    }
}

//! What the monitor said at boot.

use core::slice;
use core::sync::atomic::{AtomicPtr, Ordering};

use kiln_abi::note::name_of;
use kiln_abi::{BootInfo, DeviceInfo, DeviceKind};

static INFO: AtomicPtr<BootInfo> = AtomicPtr::new(core::ptr::null_mut());

/// # Safety
/// `info` is the monitor's boot record, which is never unmapped or changed.
#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) unsafe fn install(info: &'static BootInfo) {
    INFO.store(core::ptr::from_ref(info).cast_mut(), Ordering::Relaxed);
}

/// The boot record.
///
/// # Panics
/// Outside of a running guest.
pub fn info() -> &'static BootInfo {
    // SAFETY: null, or installed for ever.
    unsafe { INFO.load(Ordering::Relaxed).as_ref() }.expect("not in a guest")
}

/// The program's arguments, its name first. Arguments that are not UTF-8 are left out.
pub fn args() -> impl Iterator<Item = &'static str> {
    let info = info();
    strings(info.args, info.args_size)
}

/// The environment as pairs of name and value.
pub fn vars() -> impl Iterator<Item = (&'static str, &'static str)> {
    let info = info();
    strings(info.env, info.env_size).filter_map(|pair| pair.split_once('='))
}

/// One variable of the environment.
pub fn var(name: &str) -> Option<&'static str> {
    vars().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The instance's name.
pub fn name() -> &'static str {
    let bytes: &'static [u8; 24] = &info().name;
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..len]).unwrap_or("kiln")
}

/// The attached devices; a device's position is its number.
pub fn devices() -> &'static [DeviceInfo] {
    let info = info();
    if info.device_count == 0 {
        return &[];
    }
    // SAFETY: the monitor's promise: an array of this length, in memory that is never unmapped or changed.
    unsafe {
        slice::from_raw_parts(
            info.devices as *const DeviceInfo,
            info.device_count as usize,
        )
    }
}

/// The number and description of the device with this kind and name.
pub fn device(kind: DeviceKind, name: &str) -> Option<(u32, &'static DeviceInfo)> {
    (0..)
        .zip(devices())
        .find(|(_, device)| device.kind == kind as u32 && name_of(&device.name) == Some(name))
}

fn strings(address: u64, size: u32) -> impl Iterator<Item = &'static str> {
    let bytes: &'static [u8] = if size == 0 {
        &[]
    } else {
        // SAFETY: as for the devices.
        unsafe { slice::from_raw_parts(address as *const u8, size as usize) }
    };
    bytes
        .split_inclusive(|&b| b == 0)
        .filter_map(|s| core::str::from_utf8(s.strip_suffix(&[0])?).ok())
}

//! Limits of resources (`getrlimit(2)`).

/// What can be limited, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of getrlimit(2)")]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    ResidentSet = 5,
    Processes = 6,
    Files = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    Locks = 10,
    SignalsPending = 11,
    MessageQueues = 12,
    Nice = 13,
    RealTimePriority = 14,
    RealTimeTime = 15,
}

/// How many there are.
pub const COUNT: usize = 16;
/// `RLIM_INFINITY`.
pub const INFINITY: u64 = u64::MAX;

/// Soft and hard limits by resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([(u64, u64); COUNT]);

impl Default for Limits {
    /// What a container finds that has not been limited.
    fn default() -> Self {
        let mut limits = Self([(INFINITY, INFINITY); COUNT]);
        let mut set = |resource: Resource, soft, hard| limits.set(resource, soft, hard);
        set(Resource::Stack, 8 << 20, INFINITY);
        set(Resource::Files, 1 << 20, 1 << 20);
        set(Resource::LockedMemory, 64 << 20, 64 << 20);
        set(Resource::SignalsPending, 31_402, 31_402);
        set(Resource::MessageQueues, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealTimePriority, 0, 0);
        limits
    }
}

impl core::ops::Deref for Limits {
    type Target = [(u64, u64); COUNT];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl core::ops::DerefMut for Limits {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Limits {
    /// Soft and hard limit.
    pub fn of(&self, resource: Resource) -> (u64, u64) {
        self.0
            .get(resource as usize)
            .copied()
            .unwrap_or((INFINITY, INFINITY))
    }

    /// Those of a number; `None` if there is no such resource.
    pub fn by_number(&self, number: u32) -> Option<(u64, u64)> {
        self.0.get(number as usize).copied()
    }

    /// Sets both.
    pub fn set(&mut self, resource: Resource, soft: u64, hard: u64) {
        self.set_by_number(resource as u32, soft, hard);
    }

    /// Sets both of a number.
    pub fn set_by_number(&mut self, number: u32, soft: u64, hard: u64) {
        if let Some(slot) = self.0.get_mut(number as usize) {
            *slot = (soft, hard);
        }
    }
}

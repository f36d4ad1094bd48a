//! Who a process is to others (`credentials(7)`, `capabilities(7)`).

use alloc::vec::Vec;

use crate::{Errno, Result};

/// User and group numbers. All threads of a process have the same ones here; libc sees to that elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of credentials(7)")]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub capabilities: Capabilities,
}

/// Capability sets (`capabilities(7)`), one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of capabilities(7)")]
pub struct Capabilities {
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
    pub bounding: u64,
    pub keep: bool,
    pub secure_bits: u32,
}

/// What a container's first process has by convention: enough for servers, nothing that would reconfigure a machine.
pub const CONTAINER: u64 = 0xa804_25fb;
/// `CAP_FSETID`.
pub const CAP_FSETID: u32 = 4;
/// `CAP_SETGID`.
pub const CAP_SETGID: u32 = 6;
/// `CAP_SETUID`.
pub const CAP_SETUID: u32 = 7;
/// `CAP_SETPCAP`.
pub const CAP_SETPCAP: u32 = 8;
/// `CAP_SYS_RESOURCE`.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// The greatest capability there is.
pub const CAP_LAST: u32 = 40;

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            permitted: CONTAINER,
            effective: CONTAINER,
            inheritable: 0,
            ambient: 0,
            bounding: CONTAINER,
            keep: false,
            secure_bits: 0,
        }
    }
}

/// "Leave it as it is."
const SAME: u32 = u32::MAX;

impl Credentials {
    /// A user and a group without any others and, unless it is root, without capabilities.
    pub fn new(uid: u32, gid: u32) -> Self {
        let mut new = Self {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            ..Self::default()
        };
        if uid != 0 {
            new.capabilities.permitted = 0;
            new.capabilities.effective = 0;
        }
        new
    }

    /// True if the capability is in effect.
    pub fn can(&self, capability: u32) -> bool {
        self.capabilities.effective >> capability & 1 != 0
    }

    /// True if the process is in the group.
    pub fn is_member(&self, group: u32) -> bool {
        self.fsgid == group || self.groups.contains(&group)
    }

    /// `setuid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_uid(&mut self, uid: u32) -> Result {
        check(uid)?;
        let old = self.clone();
        if self.can(CAP_SETUID) {
            self.uid = uid;
            self.suid = uid;
        } else if uid != self.uid && uid != self.suid {
            return Err(Errno::EPERM);
        }
        self.euid = uid;
        self.after_uid(&old);
        Ok(())
    }

    /// `setgid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_gid(&mut self, gid: u32) -> Result {
        check(gid)?;
        if self.can(CAP_SETGID) {
            self.gid = gid;
            self.sgid = gid;
        } else if gid != self.gid && gid != self.sgid {
            return Err(Errno::EPERM);
        }
        self.egid = gid;
        self.fsgid = gid;
        Ok(())
    }

    /// `setreuid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_reuid(&mut self, real: u32, effective: u32) -> Result {
        let old = self.clone();
        let privileged = self.can(CAP_SETUID);
        let real_allowed = [SAME, old.uid, old.euid].contains(&real);
        let effective_allowed = [SAME, old.uid, old.euid, old.suid].contains(&effective);
        if !(privileged || real_allowed && effective_allowed) {
            return Err(Errno::EPERM);
        }
        self.uid = pick(real, old.uid);
        self.euid = pick(effective, old.euid);
        if real != SAME || (effective != SAME && effective != old.uid) {
            self.suid = self.euid;
        }
        self.after_uid(&old);
        Ok(())
    }

    /// `setregid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_regid(&mut self, real: u32, effective: u32) -> Result {
        let old = self.clone();
        let privileged = self.can(CAP_SETGID);
        let real_allowed = [SAME, old.gid, old.egid].contains(&real);
        let effective_allowed = [SAME, old.gid, old.egid, old.sgid].contains(&effective);
        if !(privileged || real_allowed && effective_allowed) {
            return Err(Errno::EPERM);
        }
        self.gid = pick(real, old.gid);
        self.egid = pick(effective, old.egid);
        if real != SAME || (effective != SAME && effective != old.gid) {
            self.sgid = self.egid;
        }
        self.fsgid = self.egid;
        Ok(())
    }

    /// `setresuid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_resuid(&mut self, real: u32, effective: u32, saved: u32) -> Result {
        let old = self.clone();
        let mine = [SAME, old.uid, old.euid, old.suid];
        let allowed = [real, effective, saved].iter().all(|id| mine.contains(id));
        if !self.can(CAP_SETUID) && !allowed {
            return Err(Errno::EPERM);
        }
        self.uid = pick(real, old.uid);
        self.euid = pick(effective, old.euid);
        self.suid = pick(saved, old.suid);
        self.after_uid(&old);
        Ok(())
    }

    /// `setresgid(2)`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_resgid(&mut self, real: u32, effective: u32, saved: u32) -> Result {
        let old = self.clone();
        let mine = [SAME, old.gid, old.egid, old.sgid];
        let allowed = [real, effective, saved].iter().all(|id| mine.contains(id));
        if !self.can(CAP_SETGID) && !allowed {
            return Err(Errno::EPERM);
        }
        self.gid = pick(real, old.gid);
        self.egid = pick(effective, old.egid);
        self.sgid = pick(saved, old.sgid);
        self.fsgid = self.egid;
        Ok(())
    }

    /// `setfsuid(2)`: answers with the old one whatever happens.
    pub fn set_fsuid(&mut self, uid: u32) -> u32 {
        let old = self.fsuid;
        let allowed = [self.uid, self.euid, self.suid, self.fsuid].contains(&uid);
        if uid != SAME && (allowed || self.can(CAP_SETUID)) {
            self.fsuid = uid;
        }
        old
    }

    /// `setfsgid(2)`: likewise.
    pub fn set_fsgid(&mut self, gid: u32) -> u32 {
        let old = self.fsgid;
        let allowed = [self.gid, self.egid, self.sgid, self.fsgid].contains(&gid);
        if gid != SAME && (allowed || self.can(CAP_SETGID)) {
            self.fsgid = gid;
        }
        old
    }

    /// What a change of user does to capabilities (`capabilities(7)`, "Effect of user ID changes").
    fn after_uid(&mut self, old: &Self) {
        self.fsuid = self.euid;
        let was_root = [old.uid, old.euid, old.suid].contains(&0);
        let is_root = [self.uid, self.euid, self.suid].contains(&0);
        let sets = &mut self.capabilities;
        if was_root && !is_root {
            if !sets.keep {
                sets.permitted = 0;
            }
            sets.effective = 0;
            sets.ambient = 0;
        } else if old.euid == 0 && self.euid != 0 {
            sets.effective = 0;
        } else if old.euid != 0 && self.euid == 0 {
            sets.effective = sets.permitted;
        }
    }
}

fn check(id: u32) -> Result {
    if id == SAME {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn pick(new: u32, old: u32) -> u32 {
    if new == SAME { old } else { new }
}

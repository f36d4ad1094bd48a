//! `/proc/sysvipc`: what there is of System V's shared memory and semaphores (`proc(5)`).

use alloc::rc::Rc;

use super::pseudo::{Named, Subject, Text, file, fixed};
use crate::ipc::Object;
use crate::process::Thread;
use crate::{Result, put};

/// The folder's files.
pub const ENTRIES: &[Named] = &[
    fixed(
        "msg",
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
    ),
    file("sem", sem),
    file("shm", shm),
];

fn shm(thread: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(
        text,
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n"
    );
    crate::ipc::shm::tidy(thread);
    for (id, segment) in crate::kernel().ipc.segments.all() {
        let owner = segment.owner().get();
        put!(
            text,
            "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
            owner.key,
            owner.mode,
            segment.size,
            segment.creator,
            segment.last_user.get(),
            segment.places(thread).len(),
            owner.uid,
            owner.gid,
            owner.creator_uid,
            owner.creator_gid,
            segment.attached.get(),
            segment.detached.get(),
            segment.changed.get(),
            segment.present(),
            0
        );
    }
    Ok(())
}

fn sem(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    put!(
        text,
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
    );
    for (id, set) in crate::kernel().ipc.sets.all() {
        let owner = set.owner().get();
        put!(
            text,
            "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
            owner.key,
            owner.mode,
            set.count(),
            owner.uid,
            owner.gid,
            owner.creator_uid,
            owner.creator_gid,
            set.operated.get(),
            set.changed.get()
        );
    }
    Ok(())
}

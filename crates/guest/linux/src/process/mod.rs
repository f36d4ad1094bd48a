//! Processes and threads.
//!
//! A [`Process`] owns an address space, a table of descriptors, signal state, credentials and a working directory; a [`Thread`] is a
//! flow of control in one. Each is behind an [`Rc`], and what two of them may share (`clone(2)`) is behind one of its own.

pub mod children;
pub mod clone;
pub mod core_file;
pub mod credentials;
pub mod exec;
pub mod exit;
pub mod futex;
pub mod limits;
pub mod rseq;
pub mod sched;
pub mod trace;
pub mod usage;

#[cfg(test)]
pub mod testing;

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::fs::{FdTable, FsContext};
use crate::mm::AddressSpace;
use crate::signal::{ProcessSignals, ThreadSignals};
use crate::time::ProcessTimers;
use crate::wait::{Events, Observer, WaitQueue};

pub use credentials::Credentials;
pub use exit::{CORE_DUMPED, exit_group, exit_thread};
pub use limits::{Limits, Resource};

/// The registers of a thread as it entered the library OS, in the order in which the entry code saves them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call, or -1 if it was not one.
    pub orig_rax: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

impl Registers {
    /// `orig_rax` of a thread that has come in otherwise than by a call.
    pub const NO_CALL: u64 = u64::MAX;
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// `getpid(2)`.
    pub pid: u32,
    /// The parent's; 0 for the first one.
    pub parent: Cell<u32>,
    /// Process group.
    pub group: Cell<u32>,
    /// Session.
    pub session: Cell<u32>,
    /// Its memory.
    pub memory: Rc<AddressSpace>,
    /// Its descriptors.
    pub files: Rc<FdTable>,
    /// Its working directory, root and umask.
    pub fs: Rc<FsContext>,
    /// What it does with signals, and those that wait for any thread.
    pub signals: Rc<ProcessSignals>,
    /// Who it is to others.
    pub credentials: RefCell<Credentials>,
    /// `getrlimit(2)`, by resource: soft and hard.
    pub limits: RefCell<Limits>,
    /// Its threads by number.
    pub threads: RefCell<BTreeMap<u32, Rc<Thread>>>,
    /// Its program: path and arguments, for `/proc/self/exe` and `cmdline`.
    pub executable: RefCell<Vec<u8>>,
    /// Arguments, each without its NUL.
    pub arguments: RefCell<Vec<Vec<u8>>>,
    /// Environment, likewise.
    pub environment: RefCell<Vec<Vec<u8>>>,
    /// `wait4(2)`: set when the last thread has gone.
    pub status: Cell<Option<u32>>,
    /// The signal that tells the parent of the end; 0 for none.
    pub exit_signal: Cell<u32>,
    /// Woken when a child ends, or a thread stops that this process looks at.
    pub child_wait: WaitQueue,
    /// Timers that send it signals.
    pub timers: ProcessTimers,
    /// What `prctl(2)` and `personality(2)` have set.
    pub attributes: Attributes,
    /// Seconds of processor time at which it is told again that it has used up its own.
    pub told_of_time: Cell<u64>,
    /// Processor time of threads that have ended, in nanoseconds.
    pub used_before: Cell<u64>,
    /// Monotonic nanoseconds when it began.
    pub started: u64,
}

/// What a process has said about itself by `prctl(2)` and `personality(2)`.
#[derive(Debug)]
pub struct Attributes {
    /// `PR_SET_DUMPABLE`.
    pub dumpable: Cell<u32>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: Cell<bool>,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub child_subreaper: Cell<bool>,
    /// `PR_SET_THP_DISABLE`.
    pub no_huge_pages: Cell<bool>,
    /// `personality(2)`.
    pub personality: Cell<u32>,
    /// What goes into core files (`/proc/PID/coredump_filter`).
    pub dump_filter: Cell<u32>,
}

/// Bits that `coredump_filter` may have (core(5)).
pub const DUMP_FILTERS: u32 = 0x1ff;
/// Private pages that are not those of a file any more.
pub const DUMP_PRIVATE: u32 = 1;
/// Shared pages of no file.
pub const DUMP_SHARED: u32 = 2;

impl Default for Attributes {
    fn default() -> Self {
        Self {
            dumpable: Cell::new(1),
            no_new_privileges: Cell::new(false),
            child_subreaper: Cell::new(false),
            no_huge_pages: Cell::new(false),
            personality: Cell::new(0),
            dump_filter: Cell::new(0x33),
        }
    }
}

impl Process {
    /// Its threads, to go through without the list being borrowed.
    pub fn all_threads(&self) -> Vec<Rc<Thread>> {
        self.threads.borrow().values().cloned().collect()
    }

    /// Soft and hard limit of a resource.
    pub fn limit(&self, resource: Resource) -> (u64, u64) {
        self.limits.borrow().of(resource)
    }

    /// True if no other group of its session could let it go on after a stop (`setpgid(2)`).
    pub fn is_orphaned(&self) -> bool {
        let processes = &crate::kernel().processes;
        processes
            .process(self.parent.get())
            .is_none_or(|parent| parent.session.get() != self.session.get())
    }
}

/// Whether a thread can run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    /// It can, or does.
    #[default]
    Ready,
    /// It waits in [`sched::park`].
    Asleep,
    /// It has ended.
    Dead,
}

/// A thread.
#[derive(Debug)]
pub struct Thread {
    /// `gettid(2)`.
    pub tid: u32,
    /// What it belongs to.
    pub process: Rc<Process>,
    /// The program's registers while the thread is in the library OS.
    pub registers: Cell<Registers>,
    /// Base of the program's FS segment: its thread-local storage.
    pub fs_base: Cell<u64>,
    /// Whether it can run.
    pub state: Cell<RunState>,
    /// Signals: mask, pending, alternate stack.
    pub signals: ThreadSignals,
    /// Something is to be done before the thread goes back to its program ([`signal::before_return`](crate::signal::before_return)): a signal, the end of
    /// its process, registers that a call has replaced. The return path tests nothing else.
    pub work: Cell<bool>,
    /// `rseq(2)`.
    pub rseq: Cell<rseq::Area>,
    /// `prctl(PR_SET_NAME)`.
    pub name: RefCell<[u8; 16]>,
    /// `set_tid_address(2)`.
    pub clear_tid: Cell<u64>,
    /// `set_robust_list(2)`: head.
    pub robust_list: Cell<u64>,
    /// `nice(2)`: -20 to 19.
    pub nice: Cell<i8>,
    /// `sched_setscheduler(2)`.
    pub policy: Cell<Policy>,
    /// `PR_SET_PDEATHSIG`.
    pub death_signal: Cell<u32>,
    /// `PR_SET_TIMERSLACK`, in nanoseconds.
    pub timer_slack: Cell<u64>,
    /// `ioprio_set(2)`.
    pub io_priority: Cell<u32>,
    /// Nanoseconds of processor time used, up to the last time that was accounted for ([`sched::used`]).
    pub used: Cell<u64>,
    /// Base of the program's GS segment (`arch_prctl(2)`).
    pub gs_base: Cell<u64>,
    /// Who looks at it.
    pub tracing: trace::Tracing,
    /// What the scheduler keeps of it.
    pub entity: sched::Entity,
    /// Itself.
    pub myself: Weak<Thread>,
    /// What `arch` keeps of it: the kernel stack, the saved FPU state.
    #[cfg(kiln_guest)]
    pub arch: crate::arch::ThreadState,
    pretended_signal: Cell<bool>,
    ease: Cell<Ease>,
}

/// What is known of what a thread holds while it is in the library OS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ease {
    /// It may hold anything.
    #[default]
    Unknown,
    /// Its call held nothing when it turned to a file.
    Call,
    /// And the file, which is an inode's content, holds nothing when it turns to the inode.
    File,
}

/// Scheduling class (`sched(7)`). There is one processor and every thread is preempted in turn; the classes are kept for those who ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `SCHED_OTHER` and so on.
    pub class: u32,
    /// Of real-time classes: 1 to 99.
    pub priority: u32,
    /// `SCHED_RESET_ON_FORK`.
    pub reset_on_fork: bool,
}

impl Thread {
    /// Its name, for messages.
    pub fn name_text(&self) -> alloc::string::String {
        let name = self.name.borrow();
        let text = name.split(|&b| b == 0).next().unwrap_or(&[]);
        alloc::string::String::from_utf8_lossy(text).into_owned()
    }

    /// True if a signal waits that is not blocked, so that a sleeping call has to end.
    pub fn has_signal_to_handle(&self) -> bool {
        self.pretended_signal.get() || crate::signal::is_pending(self)
    }

    /// True if it may sleep inside of an inode: nothing is borrowed.
    ///
    /// Files never sleep, since who calls them may have borrowed something. Between a call that turns to a file ([`at_call`](Self::at_call)), the
    /// content of an inode ([`at_file`](Self::at_file)) and the inode itself there is nobody else, so nothing can be.
    pub fn may_wait(&self) -> bool {
        self.ease.get() == Ease::File
    }

    /// Turns to a file, with nothing borrowed.
    pub fn at_call<R>(&self, work: impl FnOnce() -> R) -> R {
        self.with_ease(Ease::Call, work)
    }

    /// Turns from a file to its inode, with nothing borrowed by the file.
    pub fn at_file<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.ease.get() {
            Ease::Call => self.with_ease(Ease::File, work),
            Ease::File | Ease::Unknown => work(),
        }
    }

    /// Does a whole call that turns to files and names with nothing borrowed.
    pub fn at_names<R>(&self, work: impl FnOnce() -> R) -> R {
        self.with_ease(Ease::File, work)
    }

    /// Does something for which others may have borrowed anything: memory that is touched anywhere is made present.
    pub fn at_any_time<R>(&self, work: impl FnOnce() -> R) -> R {
        self.with_ease(Ease::Unknown, work)
    }

    fn with_ease<R>(&self, ease: Ease, work: impl FnOnce() -> R) -> R {
        let before = self.ease.replace(ease);
        let result = work();
        self.ease.set(before);
        result
    }

    /// On the pretended platform, what ends a sleep that nothing else would.
    pub fn pretend_signal(&self) {
        self.pretended_signal.set(true);
    }
}

impl Observer for Thread {
    fn notify(&self, _events: Events) {
        sched::wake(self);
    }
}

/// All processes.
#[derive(Debug, Default)]
pub struct Processes {
    all: RefCell<BTreeMap<u32, Rc<Process>>>,
    threads: RefCell<BTreeMap<u32, Rc<Thread>>>,
    last: Cell<u32>,
}

impl Processes {
    /// The thread with this number.
    pub fn thread(&self, tid: u32) -> Option<Rc<Thread>> {
        self.threads.borrow().get(&tid).cloned()
    }

    /// True if there is one thread only.
    pub fn is_alone(&self) -> bool {
        self.threads.borrow().len() == 1
    }

    /// The process with this number.
    pub fn process(&self, pid: u32) -> Option<Rc<Process>> {
        self.all.borrow().get(&pid).cloned()
    }

    /// All processes.
    pub fn all(&self) -> Vec<Rc<Process>> {
        self.all.borrow().values().cloned().collect()
    }

    /// How many threads there are.
    pub fn thread_count(&self) -> usize {
        self.threads.borrow().len()
    }

    /// Makes the first process, with one thread, both with number 1.
    pub fn first(&self) -> Rc<Thread> {
        let process = Rc::new(Process {
            pid: 1,
            parent: Cell::new(0),
            group: Cell::new(1),
            session: Cell::new(1),
            memory: Rc::default(),
            files: Rc::default(),
            fs: Rc::default(),
            signals: Rc::default(),
            credentials: RefCell::default(),
            limits: RefCell::default(),
            threads: RefCell::default(),
            executable: RefCell::default(),
            arguments: RefCell::default(),
            environment: RefCell::default(),
            status: Cell::new(None),
            exit_signal: Cell::new(0),
            child_wait: WaitQueue::new(),
            timers: ProcessTimers::default(),
            attributes: Attributes::default(),
            told_of_time: Cell::new(0),
            used_before: Cell::new(0),
            started: crate::platform::now(),
        });
        self.last.set(1);
        self.all.borrow_mut().insert(1, process.clone());
        self.add_thread(1, process)
    }

    /// Makes a process with the memory, the descriptors and the folders of another one. It has no thread yet, and is in no list.
    fn sharing(&self, parent: &Process, exit_signal: u32) -> Rc<Process> {
        let signals = ProcessSignals::default();
        signals.actions.copy_from(&parent.signals.actions);
        let attributes = Attributes::default();
        attributes.dumpable.set(parent.attributes.dumpable.get());
        let filter = parent.attributes.dump_filter.get();
        attributes.dump_filter.set(filter);
        Rc::new(Process {
            pid: self.free_number(),
            parent: Cell::new(parent.pid),
            group: parent.group.clone(),
            session: parent.session.clone(),
            memory: parent.memory.clone(),
            files: parent.files.clone(),
            fs: parent.fs.clone(),
            signals: Rc::new(signals),
            credentials: parent.credentials.clone(),
            limits: parent.limits.clone(),
            threads: RefCell::default(),
            executable: parent.executable.clone(),
            arguments: parent.arguments.clone(),
            environment: parent.environment.clone(),
            status: Cell::new(None),
            exit_signal: Cell::new(exit_signal),
            child_wait: WaitQueue::new(),
            timers: ProcessTimers::default(),
            attributes,
            told_of_time: Cell::new(0),
            used_before: Cell::new(0),
            started: crate::platform::now(),
        })
    }

    /// Takes a process that has ended out of the list.
    fn forget(&self, pid: u32) {
        let process = self.all.borrow_mut().remove(&pid);
        drop(process);
    }

    /// Adds a thread to a process.
    pub(crate) fn add_thread(&self, tid: u32, process: Rc<Process>) -> Rc<Thread> {
        let thread = new_thread(tid, process);
        self.insert(&thread);
        thread
    }

    /// A number that no process or thread has.
    fn free_number(&self) -> u32 {
        let threads = self.threads.borrow();
        let mut next = self.last.get();
        loop {
            next = if next >= MAX_NUMBER { 2 } else { next + 1 };
            if !threads.contains_key(&next) && !self.all.borrow().contains_key(&next) {
                self.last.set(next);
                return next;
            }
        }
    }

    fn insert(&self, thread: &Rc<Thread>) {
        let list = &thread.process.threads;
        list.borrow_mut().insert(thread.tid, thread.clone());
        self.threads.borrow_mut().insert(thread.tid, thread.clone());
    }

    fn remove_thread(&self, thread: &Rc<Thread>) {
        let one = thread.process.threads.borrow_mut().remove(&thread.tid);
        let other = self.threads.borrow_mut().remove(&thread.tid);
        drop((one, other));
    }
}

/// `/proc/sys/kernel/pid_max`.
pub const MAX_NUMBER: u32 = 4_194_303;

/// A thread that is in no list yet.
fn new_thread(tid: u32, process: Rc<Process>) -> Rc<Thread> {
    Rc::new_cyclic(|myself| Thread {
        tid,
        process,
        registers: Cell::default(),
        fs_base: Cell::new(0),
        state: Cell::new(RunState::Ready),
        signals: ThreadSignals::default(),
        work: Cell::new(false),
        rseq: Cell::default(),
        name: RefCell::default(),
        clear_tid: Cell::new(0),
        robust_list: Cell::new(0),
        nice: Cell::new(0),
        policy: Cell::default(),
        death_signal: Cell::new(0),
        timer_slack: Cell::new(50_000),
        io_priority: Cell::new(0),
        used: Cell::new(0),
        gs_base: Cell::new(0),
        tracing: trace::Tracing::default(),
        entity: sched::Entity::default(),
        myself: myself.clone(),
        #[cfg(kiln_guest)]
        arch: crate::arch::ThreadState::default(),
        pretended_signal: Cell::new(false),
        ease: Cell::default(),
    })
}

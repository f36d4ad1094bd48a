//! Records and numbers of the Linux system-call interface for x86-64, by their names in the kernel's UAPI headers.

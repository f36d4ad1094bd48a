//! Start code, memory, executor, time and console of Kiln guests

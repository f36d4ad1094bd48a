//! The TCP/IP stack of Kiln guests

//! The library that Kiln programs are written against

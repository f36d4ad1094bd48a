//! Sockets by port: a sorted list.
//!
//! A search tree would find a port no faster among the few that a server has, and takes several KiB of code.

use alloc::vec::Vec;

/// What is bound to ports, several to one if need be.
pub(crate) struct Ports<T>(Vec<(u16, Vec<T>)>);

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Ports<T> {
    fn place(&self, port: u16) -> Result<usize, usize> {
        self.0.binary_search_by_key(&port, |(known, _)| *known)
    }

    /// What is bound to a port.
    pub(crate) fn at(&self, port: u16) -> &[T] {
        match self.place(port) {
            Ok(place) => &self.0[place].1,
            Err(_) => &[],
        }
    }

    /// The same, to be changed.
    pub(crate) fn at_mut(&mut self, port: u16) -> &mut [T] {
        match self.place(port) {
            Ok(place) => &mut self.0[place].1,
            Err(_) => &mut [],
        }
    }

    /// Binds.
    pub(crate) fn push(&mut self, port: u16, item: T) {
        match self.place(port) {
            Ok(place) => self.0[place].1.push(item),
            Err(place) => self.0.insert(place, (port, Vec::from([item]))),
        }
    }

    /// Unbinds the first of a port for which `which` holds.
    pub(crate) fn take(&mut self, port: u16, which: impl Fn(&T) -> bool) -> Option<T> {
        let place = self.place(port).ok()?;
        let items = &mut self.0[place].1;
        let item = items.swap_remove(items.iter().position(which)?);
        if items.is_empty() {
            self.0.remove(place);
        }
        Some(item)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|(_, items)| items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_is_found_until_it_is_taken() {
        let mut ports = Ports::default();
        for port in [80, 22, 443, 80, 1, 65_535] {
            ports.push(port, (port, ports.iter().count()));
        }
        assert_eq!(ports.at(80), [(80, 0), (80, 3)]);
        assert_eq!(ports.at(81), []);
        assert_eq!(ports.take(443, |item| item.1 == 0), None);
        assert_eq!(ports.take(81, |_| true), None);
        assert_eq!(ports.take(80, |item| item.1 == 0), Some((80, 0)));
        assert_eq!(ports.at(80), [(80, 3)]);
        assert_eq!(ports.take(80, |item| item.1 == 0), None);
        assert_eq!(ports.take(80, |item| item.1 == 3), Some((80, 3)));
        assert_eq!(ports.at_mut(80), []);
        assert_eq!(ports.iter().count(), 4);
    }
}

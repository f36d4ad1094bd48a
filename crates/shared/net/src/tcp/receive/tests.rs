use super::*;
use proptest::prelude::*;
use std::vec;

/// The byte that belongs at a place of the stream, in one of several versions.
fn byte(seq: u32, version: u8) -> u8 {
    (seq.wrapping_mul(31) >> 3) as u8 ^ version
}

fn bytes(start: u32, len: u32, version: u8) -> Vec<u8> {
    (start..start + len).map(|seq| byte(seq, version)).collect()
}

fn block(start: u32, end: u32) -> Block {
    Block {
        start: Seq(start),
        end: Seq(end),
    }
}

/// Every byte of the stream on its own.
struct Model {
    next: usize,
    read: usize,
    limit: usize,
    stream: Vec<Option<u8>>,
}

impl Model {
    fn insert(&mut self, start: usize, data: &[u8]) -> usize {
        let edge = self.read + self.limit;
        let mut new = 0;
        for (seq, &byte) in (start..).zip(data) {
            if seq >= self.next && seq < edge && self.stream[seq].is_none() {
                self.stream[seq] = Some(byte);
                new += 1;
            }
        }
        while self.stream[self.next].is_some() {
            self.next += 1;
        }
        new
    }

    fn blocks(&self) -> Vec<(usize, usize)> {
        let mut blocks: Vec<(usize, usize)> = vec![];
        for seq in self.next..(self.read + self.limit).min(self.stream.len()) {
            if self.stream[seq].is_some() {
                match blocks.last_mut() {
                    Some(last) if last.1 == seq => last.1 += 1,
                    _ => blocks.push((seq, seq + 1)),
                }
            }
        }
        blocks
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Data at an offset from RCV.NXT.
    Insert(i32, u32, u8),
    Read(usize),
    Consume(usize),
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1u32..5, 1u32..200, 1u32..2000];
    prop_oneof![
        12 => (-50i32..3000, len, 0u8..3).prop_map(|(at, len, version)| Step::Insert(at, len, version)),
        3 => (0usize..3000).prop_map(Step::Read),
        3 => (0usize..3000).prop_map(Step::Consume),
        1 => Just(Step::Drop),
    ]
}

proptest! {
    #[test]
    fn behaves_as_bytes_on_their_own(
        steps in proptest::collection::vec(step(), 0..120),
        first: u32,
        limit in 1000usize..20_000,
    ) {
        let mut buffer = ReceiveBuffer::new(Seq(first), limit as u32);
        let mut model = Model { next: 0, read: 0, limit, stream: vec![None; 300_000] };
        for step in steps {
            match step {
                Step::Insert(at, len, version) => {
                    let start = (model.next as u32).saturating_add_signed(at);
                    let data = bytes(start, len, version);
                    let before = model.next;
                    let had_gap = !model.blocks().is_empty();
                    let duplicate = (start..start + len)
                        .find(|&seq| (seq as usize) < before || model.stream[seq as usize].is_some());
                    let new = model.insert(start as usize, &data);
                    let result = buffer.insert(Seq(first.wrapping_add(start)), &data);
                    prop_assert_eq!(result.advanced as usize, model.next - before);
                    prop_assert_eq!(result.filled_gap, had_gap && result.advanced > 0);
                    prop_assert_eq!(result.out_of_order, new > 0 && start as usize > before);
                    prop_assert_eq!(result.duplicate.map(|b| b.start.0.wrapping_sub(first)), duplicate);
                    let edge = (model.read + limit) as u32;
                    prop_assert_eq!(result.dropped, (start + len).saturating_sub(edge).min(len));
                    if let Some(first_block) = buffer.sack().as_slice().first()
                        && start > before as u32 && start < edge
                    {
                        let at = Seq(first.wrapping_add(start));
                        prop_assert!(first_block.start <= at && at < first_block.end);
                    }
                }
                Step::Read(count) => {
                    let mut target = vec![0; count];
                    let count = buffer.read(&mut target);
                    prop_assert_eq!(count, target.len().min(model.next - model.read));
                    for &byte in &target[..count] {
                        prop_assert_eq!(Some(byte), model.stream[model.read]);
                        model.read += 1;
                    }
                }
                Step::Consume(count) => {
                    let next = buffer.peek().first().copied();
                    let expected = (model.next > model.read).then(|| model.stream[model.read]).flatten();
                    prop_assert_eq!(next, expected);
                    buffer.consume(count);
                    model.read = (model.read + count).min(model.next);
                }
                Step::Drop => {
                    let count = buffer.drop_out_of_order();
                    let behind: usize = model.blocks().iter().map(|b| b.1 - b.0).sum();
                    prop_assert_eq!(count, behind);
                    let edge = model.read + limit;
                    model.stream[model.next..edge].fill(None);
                }
            }
            prop_assert_eq!(buffer.len(), model.next - model.read);
            prop_assert_eq!(buffer.next(), Seq(first.wrapping_add(model.next as u32)));
            prop_assert_eq!(buffer.room() as usize, limit - buffer.len());
            let blocks = model.blocks();
            prop_assert_eq!(buffer.has_gap(), !blocks.is_empty());
            let sack = buffer.sack();
            prop_assert_eq!(sack.is_empty(), blocks.is_empty());
            for block in sack.as_slice() {
                let at = |seq: Seq| seq.0.wrapping_sub(first) as usize;
                prop_assert!(blocks.contains(&(at(block.start), at(block.end))));
            }
            let chunks: usize = buffer.more.as_ref().map_or(0, |m| {
                m.chunks.iter().map(Vec::capacity).sum::<usize>()
                    + m.parts.iter().map(|p| p.bytes.capacity()).sum::<usize>()
            });
            prop_assert_eq!(buffer.held(), buffer.first.capacity() + chunks);
            let cost = buffer.more.as_ref().map_or(0, |m| m.parts.iter().map(Part::cost).sum());
            prop_assert_eq!(buffer.more.as_ref().map_or(0, |m| m.cost), cost);
        }
        buffer.drop_out_of_order();
        buffer.consume(usize::MAX);
        prop_assert!(buffer.held() == 0 && buffer.more.is_none());
    }

    #[test]
    fn any_segments_are_survived(segments: Vec<(u32, Vec<u8>)>, next: u32, limit: u32) {
        let mut buffer = ReceiveBuffer::new(Seq(next), limit);
        for (seq, data) in segments {
            buffer.insert(Seq(seq), &data);
            buffer.sack();
        }
    }
}

#[test]
fn the_most_recent_block_comes_first() {
    // RFC 2018 section 4, the third example of section 7.
    let mut buffer = ReceiveBuffer::new(Seq(5000), 100_000);
    for start in [5500, 6500, 7500, 8500, 9500] {
        assert!(buffer.insert(Seq(start), &[0; 500]).out_of_order);
    }
    let expected = [
        block(9500, 10_000),
        block(8500, 9000),
        block(7500, 8000),
        block(6500, 7000),
    ];
    assert_eq!(buffer.sack().as_slice(), expected);
    assert!(buffer.insert(Seq(7000), &[0; 500]).out_of_order);
    let expected = [block(6500, 8000), block(9500, 10_000), block(8500, 9000)];
    assert_eq!(buffer.sack().as_slice(), expected);
    let filled = buffer.insert(Seq(5000), &[0; 500]);
    assert!(filled.filled_gap && filled.advanced == 1000);
    assert_eq!(buffer.sack().as_slice(), expected);
}

#[test]
fn a_block_is_reported_however_old_it_is() {
    let mut buffer = ReceiveBuffer::new(Seq(0), 100_000);
    for start in [9000, 1000, 2000, 3000, 4000] {
        buffer.insert(Seq(start), &[0; 500]);
    }
    assert_eq!(buffer.insert(Seq(0), &[0; 4500]).advanced, 4500);
    assert_eq!(buffer.sack().as_slice(), [block(9000, 9500)]);
}

#[test]
fn repeated_data_are_reported() {
    let mut buffer = ReceiveBuffer::new(Seq(1000), 100_000);
    assert_eq!(buffer.insert(Seq(1000), &[1; 500]).duplicate, None);
    assert_eq!(
        buffer.insert(Seq(1000), &[2; 500]).duplicate,
        Some(block(1000, 1500))
    );
    assert_eq!(buffer.insert(Seq(2000), &[1; 500]).duplicate, None);
    assert_eq!(
        buffer.insert(Seq(2100), &[2; 500]).duplicate,
        Some(block(2100, 2500))
    );
    let result = buffer.insert(Seq(1400), &[2; 2000]);
    assert_eq!(result.duplicate, Some(block(1400, 1500)));
    assert_eq!(result.advanced, 1900);
    let mut data = [0; 2400];
    assert_eq!(buffer.read(&mut data), 2400);
    assert!(data[..500].iter().all(|&b| b == 1) && data[1000..1500].iter().all(|&b| b == 1));
    assert!(data[500..1000].iter().all(|&b| b == 2) && data[1500..].iter().all(|&b| b == 2));
}

#[test]
fn single_bytes_behind_gaps_are_limited() {
    let mut buffer = ReceiveBuffer::new(Seq(0), 64 * 1024);
    let dropped: u32 = (1..30_000)
        .map(|i| buffer.insert(Seq(2 * i), b"x").dropped)
        .sum();
    assert!(dropped > 28_000);
    assert!(buffer.held() < 100_000);
    // What fills the gap is taken all the same.
    assert_eq!(buffer.insert(Seq(0), &vec![1; 40_000]).advanced, 40_000);
}

#[test]
fn a_window_with_many_gaps_is_kept_whole() {
    for (size, every) in [(1448, 18), (1448, 10), (1000, 9), (536, 17)] {
        let mut buffer = ReceiveBuffer::new(Seq(0), 65_535 + 65_535 / 8 + 16);
        for n in (1..65_535 / size).filter(|n| n % every != 0) {
            let inserted = buffer.insert(Seq(n * size), &vec![1; size as usize]);
            assert_eq!(inserted.dropped, 0, "segment {n} of {size}");
        }
    }
}

#[test]
fn a_large_window_fits_behind_one_lost_segment() {
    for backwards in [false, true] {
        let limit = 4 << 20;
        let mut buffer = ReceiveBuffer::new(Seq(0), limit);
        let count = limit / 1448;
        for i in 1..count {
            let i = if backwards { count - i } else { i };
            let result = buffer.insert(Seq(i * 1448), &[7; 1448]);
            assert!(result.out_of_order && result.dropped == 0);
        }
        let parts = buffer.more.as_ref().map_or(0, |more| more.parts.len());
        assert!(parts < 150, "{parts}");
        assert!(buffer.held() < (limit + limit / 4) as usize);
        assert_eq!(buffer.insert(Seq(0), &[7; 1448]).advanced, count * 1448);
        assert!(!buffer.has_gap());
    }
}

#[test]
fn memory_is_lent_and_given_on() {
    let mut buffer = ReceiveBuffer::new(Seq(0), 1 << 20);
    buffer.lend(Vec::with_capacity(1000));
    buffer.free_unused();
    assert_eq!(buffer.held(), 0);
    let lent: Vec<u8> = Vec::with_capacity(1000);
    let address = lent.as_ptr();
    buffer.lend(lent);
    assert_eq!(buffer.insert(Seq(0), b"request").advanced, 7);
    buffer.free_unused();
    assert_eq!(
        (buffer.peek(), buffer.peek().as_ptr()),
        (&b"request"[..], address)
    );
    assert!(buffer.consume_all(3).is_none());
    assert_eq!(buffer.peek(), b"uest");
    let given = buffer.consume_all(4).expect("its memory");
    assert_eq!((given.as_ptr(), buffer.held()), (address, 0));
    assert!(buffer.is_empty());
    assert_eq!(buffer.insert(Seq(7), b"more").advanced, 4);
    assert_eq!(buffer.peek(), b"more");
}

#[test]
fn buffers_are_small() {
    let size = size_of::<ReceiveBuffer>() + size_of::<crate::tcp::send::SendBuffer>();
    assert!(size <= 128, "{size}");
}

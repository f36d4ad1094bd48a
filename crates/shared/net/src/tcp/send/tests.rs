use super::*;
use proptest::prelude::*;
use std::vec;

/// Bytes whose value tells their place.
static PATTERN: [u8; 100_000] = {
    let mut bytes = [0; 100_000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
};

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Static(usize),
    Shared(usize, usize),
    Consume(usize),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0usize..50, 0usize..5000, 0usize..100_000];
    prop_oneof![
        4 => size.clone().prop_map(Step::Write),
        2 => size.clone().prop_map(Step::Static),
        2 => (size.clone(), 0usize..3000).prop_map(|(size, start)| Step::Shared(size, start)),
        3 => size.prop_map(Step::Consume),
        1 => (0usize..300_000).prop_map(Step::Limit),
    ]
}

fn collect(buffer: &SendBuffer, offset: usize, len: usize) -> Vec<u8> {
    buffer.pieces(offset, len).flatten().copied().collect()
}

proptest! {
    #[test]
    fn behaves_as_one_vector(steps in proptest::collection::vec(step(), 0..60), range: (u16, u16), start: u32) {
        let shared: Arc<[u8]> = Arc::from(&PATTERN[..]);
        let mut buffer = SendBuffer::new(200_000);
        buffer.start = start;
        let mut model: Vec<u8> = vec![];
        for step in steps {
            let room = buffer.room();
            match step {
                Step::Write(size) => {
                    let taken = buffer.write(&PATTERN[..size]);
                    prop_assert_eq!(taken, size.min(room));
                    model.extend(&PATTERN[..taken]);
                }
                Step::Static(size) => {
                    let taken = buffer.write_static(&PATTERN[..size]);
                    prop_assert_eq!(taken, size.min(room));
                    model.extend(&PATTERN[..taken]);
                }
                Step::Shared(size, start) => {
                    let start = (100_000 - size).max(start);
                    let taken = buffer.write_shared(&shared, start);
                    prop_assert_eq!(taken, (100_000 - start).min(room));
                    model.extend(&PATTERN[start..][..taken]);
                }
                Step::Consume(size) => {
                    buffer.consume(size);
                    model.drain(..size.min(model.len()));
                }
                Step::Limit(limit) => buffer.set_limit(limit),
            }
            prop_assert_eq!(buffer.len(), model.len());
            let offset = usize::from(range.0).min(model.len());
            let end = (offset + usize::from(range.1)).min(model.len());
            prop_assert!(collect(&buffer, usize::from(range.0), usize::from(range.1)) == model[offset..end]);
            prop_assert!(buffer.pieces(offset, 65_536).count() <= 30);
            let capacities: usize = (0..).map_while(|i| buffer.piece(i)).map(|p| p.held() as usize).sum();
            prop_assert_eq!(buffer.held(), capacities);
        }
        prop_assert!(collect(&buffer, 0, usize::MAX) == model);
        buffer.consume(usize::MAX);
        prop_assert!(buffer.is_empty() && buffer.held() == 0 && buffer.older.is_none() && buffer.newest.is_none());
    }
}

#[test]
fn small_writes_share_memory() {
    let mut buffer = SendBuffer::new(1 << 20);
    for _ in 0..100_000 {
        assert_eq!(buffer.write(b"1234567"), 7);
    }
    assert!(buffer.pieces(0, usize::MAX).count() < 20);
    assert!(buffer.held() < 800_000);
}

#[test]
fn no_mixture_of_sizes_makes_many_pieces() {
    for (borrowed, copied) in [(2048, 1), (8192, 1), (8192, 2049), (8192, 6145), (1, 2047)] {
        let mut buffer = SendBuffer::new(1 << 20);
        while buffer.room() > 20_000 {
            buffer.write_static(&PATTERN[..borrowed]);
            buffer.write(&PATTERN[..copied]);
            buffer.write_static(&PATTERN[..2048]);
        }
        for offset in (0..buffer.len()).step_by(1000) {
            assert!(buffer.pieces(offset, 65_536).count() <= 30);
        }
    }
}

#[test]
fn large_borrowed_pieces_are_not_copied() {
    let mut buffer = SendBuffer::new(1 << 20);
    assert_eq!(buffer.write(b"HTTP/1.1 200 OK\r\n\r\n"), 19);
    assert_eq!(buffer.write_static(&PATTERN), 100_000);
    assert_eq!(buffer.write_static(b"end"), 3);
    assert_eq!(buffer.held(), 2 * SMALLEST_CHUNK);
    let pieces: Vec<&[u8]> = buffer.pieces(0, usize::MAX).collect();
    assert_eq!(pieces.len(), 3);
    assert!(core::ptr::eq(pieces[1], &raw const PATTERN[..]));
}

#[test]
fn memory_goes_from_message_to_message() {
    let mut buffer = SendBuffer::new(1 << 20);
    assert_eq!(buffer.write(b"first"), 5);
    assert!(buffer.consume_all(4).is_none());
    let chunk = buffer.consume_all(1).expect("its memory");
    assert_eq!((buffer.len(), buffer.held()), (0, 0));
    let address = chunk.as_ptr();
    buffer.lend(chunk);
    assert_eq!(buffer.held(), SMALLEST_CHUNK);
    let count = buffer.write_with(6, &mut |bytes, _| {
        bytes.extend_from_slice(b"second");
        6
    });
    assert_eq!(count, 6);
    let pieces: Vec<&[u8]> = buffer.pieces(0, usize::MAX).collect();
    assert_eq!(pieces, [b"second"]);
    assert_eq!(pieces[0].as_ptr(), address);
    // Not taken while there is some, and not given if it is of another size.
    buffer.lend(Vec::with_capacity(SMALLEST_CHUNK));
    assert_eq!(buffer.held(), SMALLEST_CHUNK);
    buffer.consume(6);
    assert_eq!(buffer.write(&PATTERN[..5000]), 5000);
    assert!(buffer.consume_all(5000).is_none());
    assert_eq!((buffer.len(), buffer.held()), (0, 0));
}

#[test]
fn any_arguments_are_survived() {
    let mut buffer = SendBuffer::new(usize::MAX);
    assert_eq!(buffer.write(b"abc"), 3);
    assert_eq!(buffer.pieces(usize::MAX, usize::MAX).count(), 0);
    assert_eq!(buffer.pieces(3, 1).count(), 0);
    assert_eq!(buffer.write_shared(&Arc::from(&b"x"[..]), 9), 0);
    buffer.consume(usize::MAX);
    assert!(buffer.is_empty());
    assert!(SendBuffer::default().write(b"x") == 0);
}

//! A layer against a plain vector of bytes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Resize(u64),
    Punch(u64, u64),
    FreezeAll,
    FreezeRun(u64),
}

/// Offsets cluster around what is special: zero, segment and chunk boundaries.
fn offsets() -> impl Strategy<Value = u64> {
    let near = |at: u64| (0..200u64).prop_map(move |off| (at + off).saturating_sub(100));
    prop_oneof![near(0), near(65_536), near(CHUNK), near(2 * CHUNK), 0..2 * CHUNK + 5000]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (offsets(), prop_oneof![1..300usize, 60_000..70_000usize, Just(CHUNK_MAX_BYTES)], any::<u8>())
            .prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        1 => offsets().prop_map(Step::Resize),
        1 => (offsets(), 1..100_000u64).prop_map(|(at, len)| Step::Punch(at, len)),
        1 => Just(Step::FreezeAll),
        1 => (1..3u64).prop_map(|n| Step::FreezeRun(n * CHUNK)),
    ];
    proptest::collection::vec(step, 1..25)
}

fn read(layer: &Layer, below: &[u8]) -> Vec<u8> {
    let mut out = vec![0xEE; layer.size as usize];
    let mut at = 0;
    while at < layer.size {
        let (seen, len) = layer.see(at..layer.size, &mut out[at as usize..]);
        assert!(len > 0, "no progress at {at}");
        let span = at as usize..(at + len) as usize;
        match seen {
            Seen::Plain => {}
            Seen::Zero => out[span].fill(0),
            Seen::Below => {
                let known = span.start.min(below.len())..span.end.min(below.len());
                let (old, new) = out[span].split_at_mut(known.len());
                old.copy_from_slice(&below[known]);
                new.fill(0);
            }
            Seen::Extent(_) => panic!("nothing is sealed here"),
        }
        at += len;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_layer_shows_what_a_vector_would(below_len in prop_oneof![Just(0usize), Just(100_000)], steps in steps()) {
        let budget = Budget::new(usize::MAX);
        let below = vec![0xBB; below_len];
        let mut model = below.clone();
        let mut layer = Layer::new(below_len as u64, 0, 0);
        for step in steps {
            match step {
                Step::Write(at, len, byte) => {
                    let data = vec![byte; len];
                    layer.write(at, &data, &budget);
                    let end = at as usize + len;
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&data);
                }
                Step::Resize(size) => {
                    layer.resize(size, &budget);
                    model.resize(size as usize, 0);
                }
                Step::Punch(at, len) => {
                    layer.punch(at..at + len, &budget);
                    let end = (at + len).min(model.len() as u64) as usize;
                    if (at as usize) < end {
                        model[at as usize..end].fill(0);
                    }
                }
                Step::FreezeAll => {
                    layer.freeze_all(&budget);
                }
                Step::FreezeRun(end) => {
                    layer.freeze_run(end);
                }
            }
            prop_assert!(read(&layer, &below) == model, "contents differ");
            let data: u64 = layer.pieces.values().map(Piece::data).sum();
            prop_assert_eq!(layer.data(), data);
        }
        drop(layer);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn a_stream_freezes_at_every_full_chunk() {
    let budget = Budget::new(usize::MAX);
    let mut layer = Layer::new(0, 0, 0);
    let mut frozen = 0;
    for i in 0..96u64 {
        layer.write(i << 17, &vec![1; 1 << 17], &budget);
        frozen += usize::from(layer.freeze_run((i + 1) << 17).is_some());
    }
    assert_eq!(frozen, 3);
    assert_eq!(layer.pieces(), 3);
}

#[test]
fn adjacent_pieces_of_a_chunk_become_one_block() {
    let budget = Budget::new(usize::MAX);
    let mut layer = Layer::new(0, 0, 0);
    for i in (0..32u64).rev() {
        layer.write(i * 4096, &[i as u8; 4096], &budget);
    }
    let blocks = layer.freeze_all(&budget);
    assert_eq!(blocks.len(), 1);
    assert_eq!(blocks[0].len(), 32 * 4096);
}

#[test]
fn a_layer_of_very_many_pieces_becomes_several_that_make_the_same_file_one_after_the_other() {
    let budget = Budget::new(1 << 30);
    for (count, most) in [(1_u64, 4), (4, 4), (5, 4), (23, 4)] {
        let mut layer = Layer::new(1000, 1, 2);
        layer.resize(10, &budget);
        for piece in 0..count {
            layer.write(piece * 100, &[piece as u8 + 1; 7], &budget);
        }
        layer.resize(50_000, &budget);
        let whole = read(&layer, &[0xAA; 1000]);
        let rest = layer.split(most);
        assert!(layer.pieces() <= most && rest.iter().all(|part| part.pieces() <= most));
        let mut content = vec![0xAA; 1000];
        for part in std::iter::once(&layer).chain(&rest) {
            content = read(part, &content);
        }
        assert!(content == whole, "{count} pieces in parts of {most}");
        assert_eq!(rest.len() as u64, count.div_ceil(most as u64).max(1) - 1);
    }
}

#[test]
fn how_much_data_a_layer_holds_is_known_without_going_through_its_pieces() {
    let budget = Budget::new(usize::MAX);
    let took = |pieces: u64| {
        let mut layer = Layer::new(0, 0, 0);
        (0..pieces).for_each(|piece| layer.write(piece * 20, &[1; 10], &budget));
        assert_eq!(layer.data(), pieces * 10);
        let once = || {
            let start = crate::sys::clock::monotonic();
            (0..200).for_each(|_| assert_eq!(layer.data(), pieces * 10));
            crate::sys::clock::monotonic() - start
        };
        // The best of several: others use the processor, too.
        (0..5).map(|_| once()).min().unwrap()
    };
    let (few, many) = (took(100), took(20_000));
    assert!(many < few * 20, "{few:?} with 100 pieces, {many:?} with 20,000");
}

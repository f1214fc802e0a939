//! MD5 of eight messages of one length at once.
//!
//! MD5 (RFC 1321) is one chain of additions, each of which waits for the last; a processor has room for eight of them. So
//! the parts of an object are hashed side by side, which takes a quarter of the time.

use std::ops::Range;

use wide::u32x4;

/// How many messages go side by side.
pub(crate) const LANES: usize = 8;
/// What MD5 takes at a time.
const BLOCK: usize = 64;
const WORDS: usize = BLOCK / 4;

/// One number of each message. Two vectors, so that one can go on while the other waits.
type Word = [u32x4; 2];

/// The additive constants (RFC 1321, 3.4).
const SINES: [u32; BLOCK] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The digests of eight messages, on their way.
#[derive(Debug)]
pub(crate) struct Md5Lanes {
    state: [Word; 4],
    length_bytes: u64,
}

impl Md5Lanes {
    pub fn new() -> Self {
        Self { state: START.map(|n| [u32x4::splat(n); 2]), length_bytes: 0 }
    }

    /// Takes the next bytes of each message: of each as many as of the shortest, in whole blocks.
    pub fn update(&mut self, messages: &[&[u8]; LANES]) {
        let length = shortest(messages) / BLOCK * BLOCK;
        self.length_bytes += length as u64;
        self.blocks(messages, 0..length);
    }

    /// Takes what is left of each message, the same number of bytes.
    pub fn finish(mut self, messages: &[&[u8]; LANES]) -> [[u8; 16]; LANES] {
        self.update(messages);
        let length = shortest(messages);
        let rest = length % BLOCK;
        self.length_bytes += rest as u64;
        let mut ends = [[0; 2 * BLOCK]; LANES];
        let end_bytes = if rest + 1 + 8 <= BLOCK { BLOCK } else { 2 * BLOCK };
        for (end, message) in ends.iter_mut().zip(messages) {
            end[..rest].copy_from_slice(&message[length - rest..length]);
            end[rest] = 0x80;
            end[end_bytes - 8..end_bytes].copy_from_slice(&self.length_bytes.wrapping_mul(8).to_le_bytes());
        }
        let ends = ends.each_ref().map(<[u8; 2 * BLOCK]>::as_slice);
        self.blocks(&ends, 0..end_bytes);
        let mut digests = [[0; 16]; LANES];
        for (at, word) in self.state.iter().enumerate() {
            let numbers = word.iter().flat_map(|half| half.to_array());
            for (digest, number) in digests.iter_mut().zip(numbers) {
                digest[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
            }
        }
        digests
    }

    fn blocks(&mut self, messages: &[&[u8]; LANES], range: Range<usize>) {
        let blocks = messages.each_ref().map(|message| message[range.clone()].as_chunks::<BLOCK>().0);
        let mut words = [[u32x4::splat(0); 2]; WORDS];
        for n in 0..range.len() / BLOCK {
            let blocks = blocks.each_ref().map(|blocks| blocks[n].as_chunks::<4>().0);
            for (at, word) in words.iter_mut().enumerate() {
                let number = |lane: usize| u32::from_le_bytes(blocks[lane][at]);
                let four =
                    |from| u32x4::new([number(from), number(from + 1), number(from + 2), number(from + 3)]);
                *word = [four(0), four(4)];
            }
            compress(&mut self.state, &words);
        }
    }
}

fn shortest(messages: &[&[u8]; LANES]) -> usize {
    messages.iter().map(|message| message.len()).min().unwrap_or(0)
}

/// `a = b + ((a + function(b, c, d) + word + constant) <<< turn)`, for all messages.
macro_rules! step {
    ($function:expr, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $constant:expr, $turn:expr) => {
        for half in 0..2 {
            let sum =
                $a[half] + $function($b[half], $c[half], $d[half]) + ($word[half] + u32x4::splat($constant));
            $a[half] = ((sum << $turn) | (sum >> (32 - $turn))) + $b[half];
        }
    };
}

/// Sixteen steps; the word of step `n` is `n * $factor + $first`. A macro, as the numbers have to be known when it is compiled.
macro_rules! round {
    ($state:ident, $words:ident, $number:expr, $factor:expr, $first:expr, $turns:expr, $function:expr) => {{
        let [mut a, mut b, mut c, mut d] = *$state;
        for four in 0..4 {
            let word = |n: usize| &$words[($factor * (four * 4 + n) + $first) % WORDS];
            let constant = |n: usize| SINES[$number * WORDS + four * 4 + n];
            step!($function, a, b, c, d, word(0), constant(0), $turns[0]);
            step!($function, d, a, b, c, word(1), constant(1), $turns[1]);
            step!($function, c, d, a, b, word(2), constant(2), $turns[2]);
            step!($function, b, c, d, a, word(3), constant(3), $turns[3]);
        }
        *$state = [a, b, c, d];
    }};
}

fn compress(state: &mut [Word; 4], words: &[Word; WORDS]) {
    type V = u32x4;
    let before = *state;
    round!(state, words, 0, 1, 0, [7_u32, 12, 17, 22], |b: V, c: V, d: V| d ^ (b & (c ^ d)));
    round!(state, words, 1, 5, 1, [5_u32, 9, 14, 20], |b: V, c: V, d: V| c ^ (d & (b ^ c)));
    round!(state, words, 2, 3, 5, [4_u32, 11, 16, 23], |b: V, c: V, d: V| b ^ c ^ d);
    round!(state, words, 3, 7, 0, [6_u32, 10, 15, 21], |b: V, c: V, d: V| c ^ (b | !d));
    for (word, before) in state.iter_mut().zip(before) {
        *word = [word[0] + before[0], word[1] + before[1]];
    }
}

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_is_the_md5_of_its_message(length in 0_usize..400, cut in 0_usize..400, seed in any::<u8>()) {
            let byte = |lane: usize, at: usize| u8::try_from((lane * 37 + at * 11 + usize::from(seed)) % 256).unwrap();
            let messages: [Vec<u8>; LANES] = std::array::from_fn(|lane| (0..length).map(|at| byte(lane, at)).collect());
            let cut = cut.min(length) / BLOCK * BLOCK;
            let mut lanes = Md5Lanes::new();
            lanes.update(&messages.each_ref().map(|message| &message[..cut]));
            let digests = lanes.finish(&messages.each_ref().map(|message| &message[cut..]));
            for (digest, message) in digests.iter().zip(&messages) {
                prop_assert_eq!(&digest[..], &Md5::digest(message)[..]);
            }
        }
    }
}

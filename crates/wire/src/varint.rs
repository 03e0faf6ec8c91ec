//! Variable byte integers (MQTT 5.0 section 1.5.5): seven bits a byte, lowest first, at most four bytes.
//!
//! Knows no packets. Start at [`read`].

/// The largest value, and with it the largest remaining length of a packet: 268,435,455.
pub const MAX: u32 = 0x0fff_ffff;

/// A value and how many bytes it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Varint {
    pub(crate) value: u32,
    pub(crate) width: usize,
}

/// Why four bytes or fewer are no variable byte integer.
pub(crate) type Fault = &'static str;

/// Reads one off the front; `None` needs more bytes.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Varint>, Fault> {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // MQTT-1.5.5-1: the fewest bytes that hold the value.
            if *byte == 0 && index > 0 {
                return Err("is not written in the fewest bytes");
            }
            return Ok(Some(Varint { value, width: index + 1 }));
        }
    }
    if bytes.len() >= 4 { Err("takes more than four bytes") } else { Ok(None) }
}

/// The bytes of a value up to [`MAX`], and how many of them count.
pub(crate) fn bytes_of(mut value: u32) -> ([u8; 4], usize) {
    let mut bytes = [0u8; 4];
    let mut width = 0;
    for byte in &mut bytes {
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        width += 1;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (bytes, width)
}

/// How many bytes a value takes.
pub(crate) fn width_of(value: u32) -> usize {
    bytes_of(value).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_table_1_1_are_read_and_written() {
        for (value, bytes) in [
            (0u32, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (MAX, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            assert_eq!(read(bytes), Ok(Some(Varint { value, width: bytes.len() })));
            let (written, width) = bytes_of(value);
            assert_eq!(&written[..width], bytes);
        }
    }

    #[test]
    fn a_started_integer_needs_more_bytes() {
        for bytes in [&[][..], &[0x80], &[0xff, 0xff], &[0x80, 0x80, 0x80]] {
            assert_eq!(read(bytes), Ok(None));
        }
    }

    #[test]
    fn overlong_and_padded_integers_are_refused() {
        for bytes in
            [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0x80, 0x80, 0x80, 0x00], &[0xff; 4], &[0x80; 5]]
        {
            assert!(read(bytes).is_err(), "{bytes:x?}");
        }
    }
}

//! The wire format of protocol buffers: the fields of a message, one after the other.
//!
//! A field is a tag (its number and how its value is written) and the value. Everything is borrowed
//! from the file, and nothing is believed of a length before the bytes are there.

use super::error::ModelFileError;

/// The largest number that a field may have.
const MAX_FIELD: u64 = (1 << 29) - 1;

/// Bytes of a message that have not been read, and where in the file they lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    offset: usize,
}

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    /// Its number in the message.
    pub(super) number: u64,
    /// Where its tag begins in the file.
    pub(super) offset: usize,
    value: Value<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Integer(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(Message<'a>),
}

impl<'a> Message<'a> {
    /// A whole file.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ModelFileError> {
        let (offset, left) = (self.offset, self.bytes.len());
        let fits = usize::try_from(count).ok().and_then(|count| self.bytes.split_at_checked(count));
        let (taken, rest) =
            fits.ok_or(ModelFileError::Truncated { offset, needed: count, left })?;
        self.bytes = rest;
        self.offset += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelFileError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// A number in groups of seven bits, lowest first; the top bit says that another follows.
    fn integer(&mut self) -> Result<u64, ModelFileError> {
        let offset = self.offset;
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let group = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit.
            if group << shift >> shift != group {
                break;
            }
            number |= group << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ModelFileError::IntegerTooLong { offset })
    }

    fn field(&mut self) -> Result<Field<'a>, ModelFileError> {
        let offset = self.offset;
        let tag = self.integer()?;
        let number = tag >> 3;
        if !(1..=MAX_FIELD).contains(&number) {
            return Err(ModelFileError::FieldNumber { found: number, offset });
        }
        let value = match tag & 7 {
            0 => Value::Integer(self.integer()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.integer()?;
                let offset = self.offset;
                Value::Bytes(Self { bytes: self.take(length)?, offset })
            }
            5 => Value::Fixed32(self.array()?),
            found => return Err(ModelFileError::WireType { field: number, found, offset }),
        };
        Ok(Field { number, offset, value })
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<Field<'a>, ModelFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // What follows a broken field means nothing.
            self.bytes = &[];
        }
        Some(field)
    }
}

impl<'a> Field<'a> {
    fn refuse<T>(&self, expected: &'static str) -> Result<T, ModelFileError> {
        let found = match self.value {
            Value::Integer(_) => "an integer",
            Value::Fixed32(_) => "4 bytes",
            Value::Fixed64 => "8 bytes",
            Value::Bytes(_) => "a length and as many bytes",
        };
        let (field, offset) = (self.number, self.offset);
        Err(ModelFileError::FieldType { field, found, expected, offset })
    }

    pub(super) fn message(&self) -> Result<Message<'a>, ModelFileError> {
        match self.value {
            Value::Bytes(message) => Ok(message),
            _ => self.refuse("a message"),
        }
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8], ModelFileError> {
        Ok(self.message()?.bytes)
    }

    pub(super) fn text(&self) -> Result<&'a str, ModelFileError> {
        let Value::Bytes(message) = self.value else { return self.refuse("a text") };
        std::str::from_utf8(message.bytes).map_err(|error| ModelFileError::NotUtf8 {
            field: self.number,
            offset: message.offset + error.valid_up_to(),
        })
    }

    pub(super) fn integer(&self) -> Result<u64, ModelFileError> {
        match self.value {
            Value::Integer(number) => Ok(number),
            _ => self.refuse("an integer"),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, ModelFileError> {
        Ok(self.integer()? != 0)
    }

    pub(super) fn float(&self) -> Result<f32, ModelFileError> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => self.refuse("a float of 4 bytes"),
        }
    }
}

/// Writes fields to the end of a buffer.
#[derive(Debug, Default)]
pub(super) struct MessageWriter {
    pub(super) bytes: Vec<u8>,
}

impl MessageWriter {
    fn raw_integer(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    pub(super) fn integer(&mut self, field: u64, number: u64) {
        self.raw_integer(field << 3);
        self.raw_integer(number);
    }

    pub(super) fn float(&mut self, field: u64, number: f32) {
        self.raw_integer(field << 3 | 5);
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.raw_integer(field << 3 | 2);
        self.raw_integer(bytes.len() as u64);
        self.bytes.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Field<'_>, ModelFileError> {
        Message::new(bytes).next().unwrap()
    }

    #[test]
    fn an_integer_has_at_most_64_bits() {
        let largest = [&[0x08][..], &[0xFF; 9], &[0x01]].concat();
        assert_eq!(first(&largest).unwrap().integer().unwrap(), u64::MAX);
        let beyond = [&[0x08][..], &[0xFF; 9], &[0x02]].concat();
        assert!(matches!(first(&beyond), Err(ModelFileError::IntegerTooLong { offset: 1 })));
        let endless = [0x80; 40];
        assert!(matches!(first(&endless), Err(ModelFileError::IntegerTooLong { offset: 0 })));
    }

    #[test]
    fn lengths_beyond_the_message_are_refused() {
        for length in [&[0x06][..], &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]] {
            let bytes = [&[0x0A][..], length, &[1; 5]].concat();
            let error = first(&bytes).unwrap_err();
            assert!(matches!(error, ModelFileError::Truncated { left: 5, .. }), "{error}");
        }
        // The inner message ends before the file does.
        let inner = [0x0A, 0x02, 0x0A, 0x05, 1, 2, 3, 4, 5];
        let error = first(&inner).unwrap().message().unwrap().next().unwrap().unwrap_err();
        assert!(matches!(error, ModelFileError::Truncated { offset: 4, needed: 5, left: 0 }));
    }

    #[test]
    fn tags_that_no_message_has_are_refused() {
        assert!(matches!(first(&[0x02]), Err(ModelFileError::FieldNumber { found: 0, offset: 0 })));
        for wire in [3, 4, 6, 7] {
            let error = first(&[0x08 | wire]).unwrap_err();
            assert!(matches!(error, ModelFileError::WireType { field: 1, offset: 0, .. }));
        }
    }

    #[test]
    fn nothing_follows_a_broken_field() {
        let mut message = Message::new(&[0x0F, 0x08, 0x01]);
        assert!(message.next().unwrap().is_err());
        assert!(message.next().is_none());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = MessageWriter::default();
        writer.integer(1, 300);
        writer.float(2, -1.5);
        writer.bytes(536_870_911, "é".as_bytes());
        let fields: Result<Vec<_>, _> = Message::new(&writer.bytes).collect();
        let fields = fields.unwrap();
        assert_eq!(fields[0].integer().unwrap(), 300);
        assert_eq!(fields[1].float().unwrap(), -1.5);
        assert_eq!((fields[2].number, fields[2].text().unwrap()), (536_870_911, "é"));
        assert!(matches!(
            fields[1].text(),
            Err(ModelFileError::FieldType { field: 2, found: "4 bytes", .. })
        ));
    }
}

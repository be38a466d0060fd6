//! Thrift's compact protocol, as far as Parquet's footers and page headers need it: to look at
//! their sizes before the Parquet crate believes them. Nothing is allocated.
//!
//! Source: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

/// Levels of structs and lists in each other. Parquet has seven.
const DEPTH: usize = 24;

pub(crate) const TRUE: u8 = 1;
pub(crate) const FALSE: u8 = 2;
pub(crate) const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
pub(crate) const BINARY: u8 = 8;
pub(crate) const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
pub(crate) const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// Why bytes are no thrift.
pub(crate) type Fault = &'static str;

const ENDS: Fault = "its bytes end too early";

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) rest: &'a [u8],
    /// Structs, texts and elements of lists that were passed over.
    pub(crate) passed: u64,
}

/// A list: the type and the number of its elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) element: u8,
    pub(crate) length: u64,
}

impl<'a> Input<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest, passed: 0 }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.rest.split_first().ok_or(ENDS)?;
        self.rest = rest;
        Ok(*first)
    }

    fn skip_bytes(&mut self, length: u64) -> Result<(), Fault> {
        let length = usize::try_from(length).map_err(|_| ENDS)?;
        self.rest = self.rest.get(length..).ok_or(ENDS)?;
        Ok(())
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    /// A signed number.
    pub(crate) fn number(&mut self) -> Result<i64, Fault> {
        let zigzag = self.varint()?;
        let half = i64::try_from(zigzag >> 1).map_err(|_| "a number is too large")?;
        Ok(if zigzag & 1 == 0 { half } else { -half - 1 })
    }

    /// Type and id of the next field of a struct; none at its end.
    pub(crate) fn field(&mut self, last: &mut i64) -> Result<Option<(u8, i64)>, Fault> {
        let head = self.byte()?;
        if head & 0x0f == 0 {
            return Ok(None);
        }
        *last = match head >> 4 {
            0 => self.number()?,
            delta => last.saturating_add(i64::from(delta)),
        };
        if !(1..=i64::from(i16::MAX)).contains(last) {
            return Err("a field has an impossible number");
        }
        Ok(Some((head & 0x0f, *last)))
    }

    /// The head of a list. Each element has a byte at least, so a longer list is refused.
    pub(crate) fn list(&mut self) -> Result<List, Fault> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        if length > u64::try_from(self.rest.len()).unwrap_or(u64::MAX) {
            return Err("a list is longer than the bytes that are left");
        }
        Ok(List { element: head & 0x0f, length })
    }

    /// Passes over a value of a field.
    pub(crate) fn skip(&mut self, kind: u8) -> Result<(), Fault> {
        self.skip_below(kind, DEPTH)
    }

    fn skip_below(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        let below = depth.checked_sub(1).ok_or("it is nested too deeply")?;
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(|_| ()),
            4..=6 => self.varint().map(|_| ()),
            DOUBLE => self.skip_bytes(8),
            BINARY => {
                self.passed += 1;
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            LIST | SET => {
                let List { element, length } = self.list()?;
                self.passed += length;
                (0..length).try_for_each(|_| self.skip_element(element, below))
            }
            MAP => {
                let length = self.varint()?;
                if length == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                self.passed += 1;
                (0..length).try_for_each(|_| {
                    self.skip_element(kinds >> 4, below)?;
                    self.skip_element(kinds & 0x0f, below)
                })
            }
            STRUCT => {
                self.passed += 1;
                let mut last = 0;
                while let Some((kind, _)) = self.field(&mut last)? {
                    self.skip_below(kind, below)?;
                }
                Ok(())
            }
            UUID => self.skip_bytes(16),
            _ => Err("it has a value of an unknown type"),
        }
    }

    /// No list of a footer has truth values, which readers of thrift pass over in two ways.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        match kind {
            TRUE | FALSE => Err("it has a list of truth values"),
            _ => self.skip_below(kind, depth),
        }
    }
}

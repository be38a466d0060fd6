//! The headers of the pages of a column chunk: what each page holds and how large it is unpacked,
//! without unpacking it.

use super::shape::{PAGE_HEADER, check};
use super::thrift::{Fault, Input};

/// How the values of a page are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Places in the dictionary.
    Codes,
    /// Texts with their lengths, or numbers.
    Plain,
    /// Lengths, then texts.
    Lengths,
    /// Texts that share beginnings: a page unpacks to many times its size.
    Prefixes,
    Other,
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dictionary,
    Data(Coding),
    /// An index, which readers pass over.
    Index,
}

/// A page: its header, and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageHeader<'a> {
    pub(crate) kind: Kind,
    /// Values, with those that are null.
    pub(crate) values: u64,
    /// Bytes after unpacking.
    pub(crate) unpacked: u64,
    /// Bytes at the start that are not packed.
    pub(crate) plain_start: u64,
    /// As it is in the file.
    pub(crate) packed: &'a [u8],
}

/// The pages of a column chunk, in order.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    rest: &'a [u8],
}

impl<'a> Pages<'a> {
    pub(crate) fn of(chunk: &'a [u8]) -> Self {
        Self { rest: chunk }
    }

    fn read(&mut self) -> Result<PageHeader<'a>, Fault> {
        check(&mut Input::new(self.rest), PAGE_HEADER)?;
        let mut input = Input::new(self.rest);
        let (mut last, mut kind, mut unpacked, mut packed) = (0, -1, -1, -1);
        let mut details = Details::default();
        while let Some((field, id)) = input.field(&mut last)? {
            match id {
                1 => kind = input.number()?,
                2 => unpacked = input.number()?,
                3 => packed = input.number()?,
                5 | 7 => details = Details::read(&mut input, PageVersion::One)?,
                8 => details = Details::read(&mut input, PageVersion::Two)?,
                _ => input.skip(field)?,
            }
        }
        let size = |n: i64| u64::try_from(n).ok().filter(|n| *n <= u64::from(u32::MAX >> 1));
        let (Some(unpacked), Some(packed)) = (size(unpacked), size(packed)) else {
            return Err("a page header has no size");
        };
        let length = usize::try_from(packed).unwrap_or(usize::MAX);
        let packed = input.rest.get(..length).ok_or("a page is longer than its column chunk")?;
        self.rest = &input.rest[length..];
        let kind = match kind {
            0 | 3 => Kind::Data(coding(details.encoding)),
            2 => Kind::Dictionary,
            _ => Kind::Index,
        };
        let (Some(values), Some(plain_start)) = (size(details.values), size(details.levels)) else {
            return Err("a page header has a negative number");
        };
        Ok(PageHeader { kind, values, unpacked, plain_start, packed })
    }
}

impl<'a> Iterator for Pages<'a> {
    type Item = Result<PageHeader<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let page = self.read();
        if page.is_err() {
            self.rest = &[];
        }
        Some(page)
    }
}

fn coding(encoding: i64) -> Coding {
    match encoding {
        0 => Coding::Plain,
        2 | 8 => Coding::Codes,
        6 => Coding::Lengths,
        7 => Coding::Prefixes,
        _ => Coding::Other,
    }
}

/// The part of a header that depends on the kind of page.
#[derive(Clone, Copy, Debug, Default)]
struct Details {
    values: i64,
    encoding: i64,
    levels: i64,
}

/// The version of a page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageVersion {
    One,
    Two,
}

impl Details {
    fn read(input: &mut Input<'_>, version: PageVersion) -> Result<Self, Fault> {
        let (mut last, mut found) = (0, Self::default());
        while let Some((field, id)) = input.field(&mut last)? {
            match (id, version) {
                (1, _) => found.values = input.number()?,
                (2, PageVersion::One) | (4, PageVersion::Two) => found.encoding = input.number()?,
                (5 | 6, PageVersion::Two) => found.levels = found.levels.saturating_add(input.number()?),
                _ => input.skip(field)?,
            }
        }
        Ok(found)
    }
}

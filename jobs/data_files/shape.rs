//! The structs of a Parquet footer and of a page header, as far as the Parquet crate reads them.
//!
//! The crate knows a field by its number and does not look at the type that the file gives it. With
//! another type it reads other bytes than whoever passes over the value by its type, and a few
//! bytes can then keep it busy for hours: a list of two billion truth values takes six. So known
//! fields must have their types, before the crate sees the bytes.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use super::thrift::{BINARY, BYTE, FALSE, Fault, Input, LIST, List, STRUCT, TRUE};

const WRONG_TYPE: Fault = "a field has the wrong type";

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    Flag,
    Byte,
    /// Of 16, 32 or 64 bits, which are written in the same way.
    Number,
    Bytes,
    Struct(Shape),
    List(&'static Of),
}

/// The known fields of a struct: number and type. Others are passed over.
pub(crate) type Shape = &'static [(i64, Of)];

use Of::{Bytes, Flag, Number};

const EMPTY: Of = Of::Struct(&[]);

/// `PageHeader`.
pub(crate) const PAGE_HEADER: Shape = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Number),
    (5, Of::Struct(&[(1, Number), (2, Number), (3, Number), (4, Number), (5, Of::Struct(STATISTICS))])),
    (6, EMPTY),
    (7, Of::Struct(&[(1, Number), (2, Number), (3, Flag)])),
    (
        8,
        Of::Struct(&[
            (1, Number),
            (2, Number),
            (3, Number),
            (4, Number),
            (5, Number),
            (6, Number),
            (7, Flag),
            (8, Of::Struct(STATISTICS)),
        ]),
    ),
];

/// `FileMetaData`.
pub(crate) const FOOTER: Shape = &[
    (1, Number),
    (2, Of::List(&Of::Struct(SCHEMA_ELEMENT))),
    (3, Number),
    (4, Of::List(&Of::Struct(ROW_GROUP))),
    (5, Of::List(&KEY_VALUE)),
    (6, Bytes),
    (7, Of::List(&Of::Struct(&[(1, EMPTY)]))),
    (8, EMPTY),
    (9, Bytes),
];

const KEY_VALUE: Of = Of::Struct(&[(1, Bytes), (2, Bytes)]);

const STATISTICS: Shape =
    &[(1, Bytes), (2, Bytes), (3, Number), (4, Number), (5, Bytes), (6, Bytes), (7, Flag), (8, Flag)];

const SCHEMA_ELEMENT: Shape = &[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Bytes),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Number),
    (9, Number),
    (10, Of::Struct(LOGICAL_TYPE)),
];

const TIME: Of = Of::Struct(&[(1, Flag), (2, Of::Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

const LOGICAL_TYPE: Shape = &[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Of::Struct(&[(1, Number), (2, Number)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Of::Struct(&[(1, Of::Byte), (2, Flag)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Of::Struct(&[(1, Of::Byte)])),
    (17, Of::Struct(&[(1, Bytes)])),
    (18, Of::Struct(&[(1, Bytes), (2, Number)])),
];

const ROW_GROUP: Shape = &[
    (1, Of::List(&Of::Struct(COLUMN_CHUNK))),
    (2, Number),
    (3, Number),
    (4, Of::List(&Of::Struct(&[(1, Number), (2, Flag), (3, Flag)]))),
    (5, Number),
    (6, Number),
    (7, Number),
];

const COLUMN_CHUNK: Shape = &[
    (1, Bytes),
    (2, Number),
    (3, Of::Struct(COLUMN)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, EMPTY),
    (9, Bytes),
];

const COLUMN: Shape = &[
    (1, Number),
    (2, Of::List(&Number)),
    (3, Of::List(&Bytes)),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Of::List(&KEY_VALUE)),
    (9, Number),
    (10, Number),
    (11, Number),
    (12, Of::Struct(STATISTICS)),
    (13, Of::List(&Of::Struct(&[(1, Number), (2, Number), (3, Number)]))),
    (14, Number),
    (15, Number),
    (16, Of::Struct(&[(1, Number), (2, Of::List(&Number)), (3, Of::List(&Number))])),
    (17, Of::Struct(&[(1, EMPTY), (2, Of::List(&Number))])),
];

/// Passes over a struct.
///
/// # Errors
/// When a known field has another type, or the bytes are no thrift.
pub(crate) fn check(input: &mut Input<'_>, shape: Shape) -> Result<(), Fault> {
    let mut last = 0;
    while let Some((kind, id)) = input.field(&mut last)? {
        match shape.iter().find(|(known, _)| *known == id) {
            Some((_, of)) => of.check(input, kind)?,
            None => input.skip(kind)?,
        }
    }
    Ok(())
}

impl Of {
    fn check(self, input: &mut Input<'_>, kind: u8) -> Result<(), Fault> {
        match (self, kind) {
            (Flag, TRUE | FALSE) | (Self::Byte, BYTE) | (Number, 4..=6) | (Bytes, BINARY) => input.skip(kind),
            (Self::Struct(shape), STRUCT) => check(input, shape),
            (Self::List(of), LIST) => {
                let List { element, length } = input.list()?;
                (0..length).try_for_each(|_| of.check(input, element))
            }
            _ => Err(WRONG_TYPE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(bytes: &[u8], shape: Shape) -> Result<usize, Fault> {
        let mut input = Input::new(bytes);
        check(&mut input, shape).map(|()| input.rest.len())
    }

    #[test]
    fn known_fields_have_their_types_and_others_are_passed_over() {
        for (bytes, expected) in [
            // type, sizes, and a data page of two values
            (&[0x15, 0, 0x15, 8, 0x15, 8, 0x2c, 0x15, 4, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0, 9][..], Ok(1)),
            // numbers of all widths are written in the same way
            (&[0x14, 0, 0x16, 8, 0x15, 8, 0], Ok(0)),
            // field 6 is a struct, here it is a UUID
            (&[0x15, 0, 0x15, 8, 0x15, 8, 0x3d, 0xf1, 0xf1, 0], Err(WRONG_TYPE)),
            // the checksum is a text
            (&[0x15, 0, 0x15, 8, 0x15, 8, 0x18, 1, 7, 0], Err(WRONG_TYPE)),
            // within a dictionary page: whether it is sorted is a number
            (&[0x7c, 0x15, 2, 0x15, 0, 0x15, 1, 0, 0], Err(WRONG_TYPE)),
            // field 40 is not known
            (&[0x15, 0, 0x05, 80, 1, 0], Ok(0)),
            // the number of a field does not fit into 16 bits, and the crate would cut it off
            (&[0x05, 0x8a, 0x80, 0x08, 1, 0], Err("a field has an impossible number")),
            (&[0x05, 1, 1, 0], Err("a field has an impossible number")),
        ] {
            assert_eq!(checked(bytes, PAGE_HEADER), expected, "{bytes:x?}");
        }
        // a schema that is a list of numbers, and one without elements
        assert_eq!(checked(&[0x15, 2, 0x19, 0x15, 2, 0], FOOTER), Err(WRONG_TYPE));
        assert_eq!(checked(&[0x15, 2, 0x19, 0, 0], FOOTER), Ok(0));
    }
}

//! Parquet files made by hand, byte for byte: also such as no writer would write.

/// A struct in thrift's compact protocol.
#[derive(Clone, Debug, Default)]
pub struct Thrift {
    bytes: Vec<u8>,
    last: i64,
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

impl Thrift {
    fn field(&mut self, id: i64, kind: u8) {
        match u8::try_from(id - self.last) {
            Ok(delta @ 1..=15) => self.bytes.push(delta << 4 | kind),
            _ => {
                self.bytes.push(kind);
                varint(&mut self.bytes, zigzag(id));
            }
        }
        self.last = id;
    }

    #[must_use]
    pub fn int(mut self, id: i64, value: i64) -> Self {
        self.field(id, 5);
        varint(&mut self.bytes, zigzag(value));
        self
    }

    #[must_use]
    pub fn long(mut self, id: i64, value: i64) -> Self {
        self.field(id, 6);
        varint(&mut self.bytes, zigzag(value));
        self
    }

    #[must_use]
    pub fn text(mut self, id: i64, value: &str) -> Self {
        self.field(id, 8);
        varint(&mut self.bytes, u64::try_from(value.len()).unwrap());
        self.bytes.extend(value.bytes());
        self
    }

    #[must_use]
    pub fn nested(mut self, id: i64, value: Self) -> Self {
        self.field(id, 12);
        self.bytes.extend(value.finish());
        self
    }

    /// A list of structs.
    #[must_use]
    pub fn structs(mut self, id: i64, values: impl IntoIterator<Item = Self>) -> Self {
        let values: Vec<Vec<u8>> = values.into_iter().map(Self::finish).collect();
        self.field(id, 9);
        self.bytes.push(0xfc);
        varint(&mut self.bytes, u64::try_from(values.len()).unwrap());
        self.bytes.extend(values.concat());
        self
    }

    /// A list of numbers or texts that is given as bytes.
    #[must_use]
    pub fn list(mut self, id: i64, kind: u8, length: usize, elements: &[u8]) -> Self {
        self.field(id, 9);
        self.bytes.push(0xf0 | kind);
        varint(&mut self.bytes, u64::try_from(length).unwrap());
        self.bytes.extend(elements);
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

pub const PLAIN: i64 = 0;
pub const LENGTHS: i64 = 6;
pub const PREFIXES: i64 = 7;
pub const CODES: i64 = 8;

pub const UNPACKED: i64 = 0;
pub const GZIP: i64 = 2;
pub const BROTLI: i64 = 4;

/// A page, with what its header says.
#[derive(Clone, Debug)]
pub struct Page {
    pub dictionary: bool,
    pub encoding: i64,
    pub values: i64,
    pub unpacked: i64,
    pub bytes: Vec<u8>,
}

impl Page {
    /// A page of data whose header is true, and which is not packed.
    pub fn data(encoding: i64, values: i64, bytes: Vec<u8>) -> Self {
        Self { dictionary: false, encoding, values, unpacked: i64::try_from(bytes.len()).unwrap(), bytes }
    }

    pub fn dictionary(texts: &[&[u8]]) -> Self {
        let values = i64::try_from(texts.len()).unwrap();
        Self { dictionary: true, ..Self::data(PLAIN, values, plain(texts)) }
    }

    pub fn write(&self) -> Vec<u8> {
        let kind = if self.dictionary { 2 } else { 0 };
        let head =
            Thrift::default().int(1, kind).int(2, self.unpacked).int(3, i64::try_from(self.bytes.len()).unwrap());
        let own = Thrift::default().int(1, self.values).int(2, self.encoding);
        let head = match self.dictionary {
            true => head.nested(7, own),
            false => head.nested(5, own.int(3, 3).int(4, 3)),
        };
        [head.finish(), self.bytes.clone()].concat()
    }
}

/// Texts with their lengths before them.
pub fn plain(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|t| [&u32::try_from(t.len()).unwrap().to_le_bytes()[..], t].concat()).collect()
}

/// A required column of a bill, or one leaf of a map.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub physical: i64,
    pub converted: Option<i64>,
    pub codec: i64,
    pub pages: Vec<Page>,
    /// Bytes after the pages.
    pub rest: Vec<u8>,
}

pub const DOUBLE: i64 = 5;
pub const LONG: i64 = 2;
pub const TEXT: i64 = 6;

impl Column {
    /// A column of texts.
    pub fn text(name: &str, pages: Vec<Page>) -> Self {
        Self { name: name.to_owned(), physical: TEXT, converted: Some(0), codec: UNPACKED, pages, rest: vec![] }
    }

    /// The same text in each of `rows` rows.
    pub fn same(name: &str, text: &str, rows: i64) -> Self {
        Self::text(name, vec![Page::dictionary(&[text.as_bytes()]), codes(rows, 0)])
    }

    fn element(&self) -> Thrift {
        let element = Thrift::default().int(1, self.physical).int(3, 0).text(4, &self.name);
        self.converted.map_or(element.clone(), |converted| element.int(6, converted))
    }
}

/// A page with `rows` times the code `code`, which is a run.
pub fn codes(rows: i64, code: u8) -> Page {
    let mut bytes = vec![8];
    varint(&mut bytes, u64::try_from(rows).unwrap() << 1);
    bytes.push(code);
    Page::data(CODES, rows, bytes)
}

/// The columns that every bill has, with `rows` lines of a minute of Chime on 2026-10-01.
pub fn bill(rows: i64) -> Vec<Column> {
    let count = usize::try_from(rows).unwrap();
    let number = |name: &str, physical, converted, value: [u8; 8]| {
        let page = Page { dictionary: true, ..Page::data(PLAIN, 1, value.to_vec()) };
        Column {
            name: name.to_owned(),
            physical,
            converted,
            codec: UNPACKED,
            pages: vec![page, codes(rows, 0)],
            rest: vec![],
        }
    };
    assert!(count > 0);
    vec![
        Column::same("line_item_product_code", "AmazonChime", rows),
        Column::same("line_item_usage_type", "USE1-Meetings-AttendeeMinutes", rows),
        Column::same("line_item_line_item_type", "Usage", rows),
        number("line_item_usage_amount", DOUBLE, None, 1_f64.to_le_bytes()),
        number("line_item_usage_start_date", LONG, Some(9), 1_790_812_800_000_i64.to_le_bytes()),
        Column::same("resource_tags_user_chitchatter_customer_id", "ann", rows),
    ]
}

/// A file with one row group of flat columns.
pub fn file(rows: i64, columns: &[Column]) -> Vec<u8> {
    let schema: Vec<Thrift> = columns.iter().map(Column::element).collect();
    let root = Thrift::default().text(4, "bill").int(5, i64::try_from(columns.len()).unwrap());
    with_schema(rows, columns, [vec![root], schema].concat(), |column| vec![column.name.clone()])
}

/// The elements of a map of texts with this name: the map, its entries, keys and values.
pub fn map_elements(name: &str) -> Vec<Thrift> {
    let leaf = |name: &str| Thrift::default().int(1, TEXT).int(3, 0).text(4, name).int(6, 0);
    vec![
        Thrift::default().int(3, 0).text(4, name).int(5, 1).int(6, 1),
        Thrift::default().int(3, 2).text(4, "key_value").int(5, 2),
        leaf("key"),
        leaf("value"),
    ]
}

/// A file of which the last two columns are keys and values of the map `resource_tags`.
pub fn file_with_tags(rows: i64, columns: &[Column]) -> Vec<u8> {
    let flat = columns.len() - 2;
    let root = Thrift::default().text(4, "bill").int(5, i64::try_from(flat + 1).unwrap());
    let elements = columns[..flat].iter().map(Column::element);
    let schema = std::iter::once(root).chain(elements).chain(map_elements("resource_tags")).collect();
    with_schema(rows, columns, schema, |column| match column.name.as_str() {
        leaf @ ("key" | "value") => vec!["resource_tags".into(), "key_value".into(), leaf.to_owned()],
        name => vec![name.to_owned()],
    })
}

fn with_schema(rows: i64, columns: &[Column], schema: Vec<Thrift>, path: impl Fn(&Column) -> Vec<String>) -> Vec<u8> {
    let mut file = b"PAR1".to_vec();
    let mut chunks = vec![];
    for column in columns {
        let start = i64::try_from(file.len()).unwrap();
        let mut data = start;
        for page in &column.pages {
            if page.dictionary {
                data = start + i64::try_from(page.write().len()).unwrap();
            }
            file.extend(page.write());
        }
        file.extend(&column.rest);
        let values = column.pages.iter().filter(|p| !p.dictionary).map(|p| p.values).sum::<i64>().max(rows);
        let size = i64::try_from(file.len()).unwrap() - start;
        let path = path(column);
        let texts: Vec<u8> =
            path.iter().flat_map(|part| [&[u8::try_from(part.len()).unwrap()][..], part.as_bytes()].concat()).collect();
        let meta = Thrift::default()
            .int(1, column.physical)
            .list(2, 5, 1, &[0])
            .list(3, 8, path.len(), &texts)
            .int(4, column.codec)
            .long(5, values)
            .long(6, size)
            .long(7, size)
            .long(9, data);
        let meta = if data > start { meta.long(11, start) } else { meta };
        chunks.push(Thrift::default().long(2, start).nested(3, meta));
    }
    let group = Thrift::default().structs(1, chunks).long(2, 1).long(3, rows);
    let footer = Thrift::default().int(1, 1).structs(2, schema).long(3, rows).structs(4, [group]);
    close(file, &footer.finish())
}

/// Puts a footer at the end of a file.
pub fn close(mut file: Vec<u8>, footer: &[u8]) -> Vec<u8> {
    file.extend(footer);
    file.extend(u32::try_from(footer.len()).unwrap().to_le_bytes());
    file.extend(b"PAR1");
    file
}

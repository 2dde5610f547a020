//! Reads the fields of a JSON body one by one, so that an error can name the field.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::{Code, RequestError, UnknownFields};

/// How many characters of an unknown field's name an error repeats.
const SHOWN_NAME: usize = 64;

/// A body that is a JSON object. `null` means absent.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// The names read so far. After all fields were read, these are the names that this version knows.
    known: RefCell<Vec<&'static str>>,
}

/// The error for a name that is not one of `known`. It suggests the most similar known name. `kind` is the kind of
/// name.
#[must_use]
pub fn unknown_field(kind: &str, name: &str, known: &[&'static str]) -> RequestError {
    let shown: String = name.chars().take(SHOWN_NAME).collect();
    let why = match nearest(name, known) {
        Some(nearest) => format!("unknown {kind}: did you mean '{nearest}'?"),
        None if known.is_empty() => format!("unknown {kind}: leave it out"),
        None => {
            let known = known.join(", ");
            format!("unknown {kind}: leave it out, or use one of {known}")
        }
    };
    RequestError::field_code(Code::UnknownField, shown, why)
}

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let invalid = |message: &str| Err(RequestError::new(Code::InvalidJson, message));
        // JSON in UTF-8 never has a NUL among its first two bytes.
        if let [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] | [0, _, ..] | [_, 0, ..] = body {
            return invalid("the body is UTF-16: send it as UTF-8");
        }
        // Some Windows editors and libraries write a byte order mark at the start of every text.
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        if body.iter().all(u8::is_ascii_whitespace) {
            return invalid("the body is empty: send a JSON object");
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { map, known: RefCell::default() }),
            Ok(_) => invalid("the body is not a JSON object"),
            Err(error) => invalid(&format!("the body is not JSON: {error}")),
        }
    }

    fn get(&self, name: &'static str) -> Option<&Value> {
        self.known.borrow_mut().push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Rejects a field that was not read, if `unknown` says so. Call this after all known fields were read.
    pub(crate) fn finish(self, unknown: UnknownFields) -> Result<(), RequestError> {
        if unknown == UnknownFields::Ignored {
            return Ok(());
        }
        let known = self.known.into_inner();
        let stranger = self
            .map
            .iter()
            .find(|(name, value)| !value.is_null() && !known.iter().any(|known| known == name));
        let Some((name, _)) = stranger else { return Ok(()) };
        Err(unknown_field("field", name, &known))
    }

    pub(crate) fn string(&self, name: &'static str) -> Result<Option<&str>, RequestError> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(crate) fn bool(&self, name: &'static str) -> Result<Option<bool>, RequestError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(crate) fn unsigned(&self, name: &'static str) -> Result<Option<u64>, RequestError> {
        self.typed(name, "a whole number, not negative", Value::as_u64)
    }

    pub(crate) fn number(&self, name: &'static str) -> Result<Option<f64>, RequestError> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub(crate) fn strings(&self, name: &'static str) -> Result<Option<Vec<&str>>, RequestError> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// An object whose values are strings.
    pub(crate) fn strings_by_name(
        &self,
        name: &'static str,
    ) -> Result<Option<BTreeMap<String, String>>, RequestError> {
        self.typed(name, "an object of strings", |value| {
            let entries = value.as_object()?.iter();
            entries.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
        })
    }

    /// The fields of an object in this one.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Self>, RequestError> {
        let map = self.typed(name, "an object", Value::as_object)?;
        Ok(map.map(|map| Self { map: map.clone(), known: RefCell::default() }))
    }

    /// What `read` makes of the object in this field. Its own fields must all be known, and errors name them within it.
    pub(crate) fn nested<T>(
        &self,
        name: &'static str,
        unknown: UnknownFields,
        read: impl FnOnce(&Self) -> Result<T, RequestError>,
    ) -> Result<Option<T>, RequestError> {
        let Some(inner) = self.object(name)? else { return Ok(None) };
        let value = read(&inner).and_then(|value| inner.finish(unknown).map(|()| value));
        value.map(Some).map_err(|error| error.within(name))
    }

    fn typed<'a, T>(
        &'a self,
        name: &'static str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        self.get(name)
            .map(|value| {
                read(value).ok_or_else(|| RequestError::field(name, format!("must be {what}")))
            })
            .transpose()
    }

    /// Parses a required string.
    pub(crate) fn required<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, RequestError> {
        let text = self.string(name)?.ok_or_else(|| RequestError::field(name, "is missing"))?;
        parse(text).map_err(|why| RequestError::field(name, why))
    }

    /// Parses an optional string.
    pub(crate) fn optional<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, RequestError> {
        self.string(name)?
            .map(|text| parse(text).map_err(|why| RequestError::field(name, why)))
            .transpose()
    }
}

/// The known name that `name` most likely misspells.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    /// Names are short. A longer one is not a misspelling, and comparing it takes time.
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    // `max_turns` and `MaxTurns` differ from `maxTurns` only in style.
    let plain = |name: &str| -> String {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let name = plain(name);
    let distance = |known: &str| strsim::damerau_levenshtein(&name, &plain(known));
    known
        .iter()
        .map(|known| (distance(known), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

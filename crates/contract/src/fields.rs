//! Reads the fields of a JSON body one by one, so that an error names its field.

use serde_json::{Map, Value};

use crate::{Code, RequestError};

/// A body that is a JSON object. `null` means absent; unknown fields are ignored.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(RequestError::new(
                Code::InvalidJson,
                "the body is empty: send a JSON object",
            ));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(RequestError::new(Code::InvalidJson, "the body is not a JSON object")),
            Err(error) => {
                Err(RequestError::new(Code::InvalidJson, format!("the body is not JSON: {error}")))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
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

    /// A string that must be there, parsed.
    pub(crate) fn required<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, RequestError> {
        let text =
            self.string(name)?.ok_or_else(|| RequestError::field(name, "is missing".into()))?;
        parse(text).map_err(|why| RequestError::field(name, why))
    }

    /// A string that may be absent, parsed.
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

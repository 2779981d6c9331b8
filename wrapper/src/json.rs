//! Building values for `--json`, with the notation of serde_json's macro. Never parses.
//!
//! Not that macro: it writes out, for every field, the copy of the key, a serializer for the value and what to do
//! if that failed, which is a third of claude-safectl. Here a field is one call, and can't fail.

use serde_json::{Map, Number, Value};
use std::borrow::Cow;

/// What a field may be made of.
pub trait ToJson {
    /// The value.
    fn to_json(self) -> Value;
}

impl ToJson for Value {
    fn to_json(self) -> Value {
        self
    }
}

impl ToJson for Map<String, Value> {
    fn to_json(self) -> Value {
        Value::Object(self)
    }
}

impl ToJson for String {
    fn to_json(self) -> Value {
        Value::String(self)
    }
}

impl ToJson for &str {
    fn to_json(self) -> Value {
        Value::String(self.to_owned())
    }
}

impl ToJson for &String {
    fn to_json(self) -> Value {
        self.as_str().to_json()
    }
}

impl ToJson for Cow<'_, str> {
    fn to_json(self) -> Value {
        Value::String(self.into_owned())
    }
}

impl ToJson for bool {
    fn to_json(self) -> Value {
        Value::Bool(self)
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl ToJson for $number {
            fn to_json(self) -> Value {
                Value::Number(Number::from(self))
            }
        })*
    };
}

numbers!(i32 i64 u32 u64 usize);

impl<T: ToJson> ToJson for Option<T> {
    fn to_json(self) -> Value {
        self.map_or(Value::Null, T::to_json)
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn to_json(self) -> Value {
        let mut list = Vec::with_capacity(self.len());
        for item in self {
            list.push(item.to_json());
        }
        Value::Array(list)
    }
}

impl ToJson for &[String] {
    fn to_json(self) -> Value {
        self.iter().collect::<Vec<_>>().to_json()
    }
}

/// As text: indented, with a line break at the end. Nothing here writes JSON otherwise: the compact form would be a
/// second serializer.
pub fn text(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Enters a field.
#[inline(never)]
pub fn put(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.insert(key.to_owned(), value);
}

/// An object, a list or a single value: `json!({"key": value, "inner": {"list": [value]}})`.
macro_rules! json {
    // The fields of an object. What stands in braces or brackets is JSON, all else an expression.
    (@field $object:ident) => {};
    (@field $object:ident $key:literal: {$($inner:tt)*} $(, $($rest:tt)*)?) => {
        $crate::json::put(&mut $object, $key, $crate::json::json!({$($inner)*}));
        $($crate::json::json!(@field $object $($rest)*);)?
    };
    (@field $object:ident $key:literal: [$($inner:tt)*] $(, $($rest:tt)*)?) => {
        $crate::json::put(&mut $object, $key, $crate::json::json!([$($inner)*]));
        $($crate::json::json!(@field $object $($rest)*);)?
    };
    (@field $object:ident $key:literal: $value:expr $(, $($rest:tt)*)?) => {
        $crate::json::put(&mut $object, $key, $crate::json::ToJson::to_json($value));
        $($crate::json::json!(@field $object $($rest)*);)?
    };
    ({$($fields:tt)*}) => {{
        #[allow(unused_mut)]
        let mut object = ::serde_json::Map::new();
        $crate::json::json!(@field object $($fields)*);
        ::serde_json::Value::Object(object)
    }};
    ([$($item:tt),* $(,)?]) => {
        ::serde_json::Value::Array(Vec::from([$($crate::json::json!($item)),*]))
    };
    ($value:expr) => {
        $crate::json::ToJson::to_json($value)
    };
}
pub(crate) use json;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn it_says_what_the_macro_of_serde_json_says() {
        let (none, list) = (None::<u64>, vec!["a", "\"b\"\n"]);
        let ours = json!({
            "number": u64::MAX, "negative": -1, "yes": true, "none": none, "some": Some(7_u32),
            "text": format!("{}", 1), "list": list.clone(), "made": list.to_vec(),
            "inner": {"empty": {}, "items": [{"one": 1}, "two", 3]},
            "value": Value::Null, "slice": &[String::from("s")][..],
        });
        let theirs = serde_json::json!({
            "number": u64::MAX, "negative": -1, "yes": true, "none": none, "some": Some(7_u32),
            "text": format!("{}", 1), "list": list.clone(), "made": list.to_vec(),
            "inner": {"empty": {}, "items": [{"one": 1}, "two", 3]},
            "value": Value::Null, "slice": &[String::from("s")][..],
        });
        assert_eq!(ours, theirs);
        assert_eq!(super::text(&ours), format!("{theirs:#}\n"));
        assert_eq!(json!("x"), serde_json::json!("x"));
    }
}

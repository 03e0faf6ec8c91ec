//! Examples of messages: a value for each field that depends on its number and type alone, so that a sample that was frozen
//! once is known again. Start at [`example`].

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};

/// A message in which as many of these fields are set as can be at once, and the numbers of those.
pub(crate) fn example(
    descriptor: &MessageDescriptor,
    fields: &[FieldDescriptor],
) -> (DynamicMessage, Vec<u32>) {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut set: Vec<FieldDescriptor> = Vec::new();
    for field in fields {
        let choice = field.containing_oneof();
        if choice.is_some() && set.iter().any(|other| other.containing_oneof() == choice) {
            continue;
        }
        message.set_field(field, value_of(field));
        set.push(field.clone());
    }
    (message, set.iter().map(FieldDescriptor::number).collect())
}

/// What a field is set to.
pub(crate) fn value_of(field: &FieldDescriptor) -> Value {
    let one = |salt: u32| match field.kind() {
        Kind::Message(descriptor) => Value::Message(inner(&descriptor)),
        kind => scalar(&kind, 100 * field.number() + salt),
    };
    if field.is_list() { Value::List(vec![one(0), one(1)]) } else { one(0) }
}

/// A message inside another: its numbers and texts, so that it is not empty where it has any.
fn inner(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let first = descriptor.fields().find(|field| field.kind().as_message().is_none() && !field.is_list());
    if let Some(field) = first {
        message.set_field(&field, value_of(&field));
    }
    debug_assert_eq!(&message.descriptor(), descriptor);
    message
}

fn scalar(kind: &Kind, number: u32) -> Value {
    let signed = i32::try_from(number).unwrap_or(i32::MAX);
    match kind {
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(format!("text {number}")),
        Kind::Bytes => Value::Bytes(format!("bytes {number}").into_bytes().into()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number.into()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(signed),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(signed.into()),
        Kind::Float => Value::F32(1.5),
        Kind::Double => Value::F64(1.5),
        Kind::Enum(values) => {
            // Not the last: that changes when there is another one.
            let first = values.values().map(|value| value.number()).filter(|number| *number > 0).min();
            Value::EnumNumber(first.unwrap_or_default())
        }
        Kind::Message(descriptor) => Value::Message(inner(descriptor)),
    }
}

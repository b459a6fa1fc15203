//! What is wrong with a tensor of a checkpoint.

use std::collections::BTreeMap;

use mistral_core::WeightFormat;

use super::GROUP;
use super::error::{TensorProblem, WeightsError};
use super::formats::WeightFormats;
use super::names::{Expected, Naming};
use super::tensor::{Stored, TensorInfo};

/// Where the scales of an 8-bit matrix are found.
pub(super) fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// A tensor that is not there, or of a type that cannot be read: `Checkpoint::check` has seen that
/// there is none.
pub(super) fn missing(tensor: &str) -> WeightsError {
    WeightsError::Tensors { problems: vec![TensorProblem::Missing { tensor: tensor.to_owned() }] }
}

/// The types that a matrix may have in files of a kind, by the names that are used there.
fn matrix_types(naming: Naming) -> &'static str {
    match naming {
        Naming::Gguf => "F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_0, Q4_K or Q4_0",
        Naming::HuggingFace | Naming::Mistral => "F32, F16, BF16, or I8 with scales",
    }
}

/// What is wrong with a tensor that is there.
pub(super) fn problem_of(
    wanted: &Expected,
    contents: &BTreeMap<String, TensorInfo>,
    naming: Naming,
    formats: Option<WeightFormats>,
) -> Option<TensorProblem> {
    let info = contents.get(&wanted.name)?;
    let wrong_type = |tensor: String, info: &TensorInfo, expected| {
        Some(TensorProblem::Type { tensor, offset: info.offset, found: info.stored, expected })
    };
    let shape = |tensor: String, info: &TensorInfo, expected: &[usize]| {
        (info.shape != expected).then(|| TensorProblem::Shape {
            tensor,
            offset: info.offset,
            found: info.shape.clone(),
            expected: expected.to_vec(),
        })
    };
    if let Some(problem) = shape(wanted.name.clone(), info, &wanted.shape) {
        return Some(problem);
    }
    let (tensor, offset) = (wanted.name.clone(), info.offset);
    let &[rows, cols] = wanted.shape.as_slice() else {
        let float = matches!(info.stored, Stored::Rows(format) if format.block() == 1);
        return if float { None } else { wrong_type(tensor, info, "F32, F16 or BF16") };
    };
    let problem = match info.stored {
        Stored::Rows(_) | Stored::Panels(_) => None,
        Stored::Int8 if cols.is_multiple_of(GROUP) => {
            let name = scale_name(&wanted.name);
            match contents.get(&name) {
                None => Some(TensorProblem::Missing { tensor: name }),
                Some(scale) if scale.stored != Stored::Rows(WeightFormat::F16) => {
                    wrong_type(name, scale, "F16")
                }
                Some(scale) => shape(name, scale, &[rows, cols / GROUP]),
            }
        }
        _ => wrong_type(tensor.clone(), info, matrix_types(naming)),
    };
    problem.or_else(|| {
        let format = formats?.of(wanted.field);
        let block = format.block();
        let whole = cols.is_multiple_of(block);
        (!whole).then_some(TensorProblem::Columns { tensor, offset, cols, format, block })
    })
}

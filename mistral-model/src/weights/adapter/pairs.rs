//! The pairs of matrices of an adapter, checked against a model.

use std::collections::BTreeSet;

use mistral_core::Matrix;
use mistral_core::ops::RopeLayout;

use super::{AdapterError, AdapterProblem, Asked, LayerAddends, Rules};
use crate::config::Config;
use crate::low_rank::{LowRank, Projection, Target};
use crate::weights::archive::{Archive, io_error};
use crate::weights::names::{Module, Naming, adaptable};
use crate::weights::tensor::{Stored, TensorInfo};
use crate::weights::{TensorProblem, WeightsError};

/// Reads the addends of every layer and of the output matrix, or lists everything that is wrong.
pub(super) fn read<R: Rules>(
    archive: &Archive<'_>,
    config: &Config,
    naming: Naming,
    rules: &R,
) -> Result<(Vec<LayerAddends>, Option<LowRank>), AdapterError> {
    let mut layers: Vec<LayerAddends> = (0..config.n_layers).map(|_| Default::default()).collect();
    let mut output = None;
    let mut problems = rules.problems();
    let mut rest: BTreeSet<&str> = archive.tensors().keys().map(String::as_str).collect();
    for module in adaptable(config, naming) {
        let names = ["lora_A", "lora_B"]
            .map(|matrix| format!("{}{}.{matrix}.weight", R::PREFIX, module.name));
        if module.target == Target::Output {
            // peft stores the model's own output matrix beside the pair that adapts it.
            let base = format!("{}{}.base_layer.weight", R::PREFIX, module.name);
            if rest.remove(base.as_str()) {
                let info = archive.tensors().get(base.as_str());
                let problem = info.and_then(|info| problem_of(&base, info, module.shape));
                problems.extend(problem.map(AdapterProblem::from));
            }
        }
        let there = names.each_ref().map(|name| rest.remove(name.as_str()));
        let tensors = || names.iter().zip(there);
        let Some(asked) = rules.of(&module.name) else {
            let stray = tensors().filter(|(_, there)| *there);
            problems.extend(stray.map(|(t, _)| AdapterProblem::NotTargeted { tensor: t.clone() }));
            continue;
        };
        if there == [true, true] {
            let pair = Pair { archive, names, module: &module, asked };
            let addend = pair.read(RowOrder::new(config, naming, module.target), &mut problems)?;
            match module.target {
                Target::Layer(layer, projection) => layers[layer][projection as usize] = addend,
                Target::Output => output = addend,
            }
        } else if there != [false, false] || !asked.optional {
            let missing = tensors().filter(|(_, there)| !*there);
            let missing = missing.map(|(t, _)| TensorProblem::Missing { tensor: t.clone() });
            problems.extend(missing.map(AdapterProblem::from));
        }
    }
    problems.extend(rest.into_iter().map(|tensor| {
        let (tensor, path) = (tensor.to_owned(), archive.path().to_owned());
        TensorProblem::Unexpected { tensor, path }.into()
    }));
    if archive.tensors().is_empty() && problems.is_empty() {
        let tensor = format!("{}*.lora_A.weight", R::PREFIX);
        problems.push(TensorProblem::Missing { tensor }.into());
    }
    if problems.is_empty() {
        Ok((layers, output))
    } else {
        Err(AdapterError::Invalid { path: archive.path().to_owned(), problems })
    }
}

/// `A` and `B` of one projection, in their file.
struct Pair<'a> {
    archive: &'a Archive<'a>,
    names: [String; 2],
    module: &'a Module,
    asked: Asked,
}

impl Pair<'_> {
    /// The pair, or `None` and what is wrong with it; also `None` if it adds nothing.
    fn read(
        &self,
        order: RowOrder,
        problems: &mut Vec<AdapterProblem>,
    ) -> Result<Option<LowRank>, WeightsError> {
        let [outputs, inputs] = self.module.shape;
        let [Some(a), Some(b)] =
            self.names.each_ref().map(|name| self.archive.tensors().get(name.as_str()))
        else {
            return Ok(None);
        };
        let in_file = a.shape.first().copied().unwrap_or(0);
        // A rank of 0 is wrong in any file.
        let rank = self.asked.rank.unwrap_or(in_file).max(1);
        let before = problems.len();
        let [down, up] = [(a, [rank, inputs]), (b, [outputs, rank])];
        for (name, (info, shape)) in self.names.iter().zip([down, up]) {
            problems.extend(problem_of(name, info, shape).map(AdapterProblem::from));
        }
        if problems.len() > before {
            return Ok(None);
        }
        let [a_name, b_name] = &self.names;
        let down = self.matrix(a_name, a, [rank, inputs], &RowOrder::Same)?;
        let up = self.matrix(b_name, b, [outputs, rank], &order)?;
        let scale = self.asked.scale;
        match (down, up) {
            (Ok(_), Ok(up)) if up.zero || scale == 0.0 => Ok(None),
            (Ok(down), Ok(up)) => Ok(Some(LowRank { down: down.matrix, up: up.matrix, scale })),
            (down, up) => {
                problems.extend(down.err().into_iter().chain(up.err()));
                Ok(None)
            }
        }
    }

    /// One matrix, with its rows in an order of their own.
    fn matrix(
        &self,
        name: &str,
        info: &TensorInfo,
        [rows, cols]: [usize; 2],
        order: &RowOrder,
    ) -> Result<Result<Values, AdapterProblem>, WeightsError> {
        let out_of_memory = |source| WeightsError::Matrix { tensor: name.to_owned(), source };
        let Stored::Rows(format) = info.stored else {
            let tensor = name.to_owned();
            return Ok(Err(TensorProblem::Missing { tensor }.into()));
        };
        let mut bytes = vec![0; info.bytes as usize];
        self.archive.read(info, |reader| {
            reader.read_exact(&mut bytes).map_err(|e| io_error(self.archive.path(), e))
        })?;
        let row_bytes = bytes.len() / rows;
        let (mut weights, mut zero) = (vec![0.0; cols], true);
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            format.decode(bytes, &mut weights);
            if let Some(col) = weights.iter().position(|weight| !weight.is_finite()) {
                let tensor = name.to_owned();
                return Ok(Err(AdapterProblem::NotFinite { tensor, row, col }));
            }
            zero &= weights.iter().all(|weight| *weight == 0.0);
        }
        let mut next = 0..rows;
        let matrix = Matrix::read(rows, cols, format, |wanted| {
            for (target, row) in wanted.chunks_exact_mut(row_bytes).zip(&mut next) {
                target.copy_from_slice(&bytes[order.source(row) * row_bytes..][..row_bytes]);
            }
            Ok(())
        });
        Ok(Ok(Values { matrix: matrix.map_err(out_of_memory)?, zero }))
    }
}

/// A matrix, and whether it is zero.
struct Values {
    matrix: Matrix,
    zero: bool,
}

fn problem_of(name: &str, info: &TensorInfo, expected: [usize; 2]) -> Option<TensorProblem> {
    let (tensor, offset) = (name.to_owned(), info.offset);
    if info.shape != expected {
        let (found, expected) = (info.shape.clone(), expected.to_vec());
        return Some(TensorProblem::Shape { tensor, offset, found, expected });
    }
    let float = matches!(info.stored, Stored::Rows(format) if format.block() == 1);
    (!float).then(|| {
        let expected = "F32, F16 or BF16";
        TensorProblem::Type { tensor, offset, found: info.stored, expected }
    })
}

/// Where a row of a matrix is found in a file whose rotated pairs lie otherwise.
///
/// With heads of 6, the elements of pair `p` are `p0` and `p1`:
///
/// ```text
/// half-split   00 10 20 01 11 21
/// interleaved  00 01 10 11 20 21
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    /// Where it stands in the matrix.
    Same,
    /// The file is half-split, the matrix interleaved.
    Interleave { head_dim: usize },
    /// The file is interleaved, the matrix half-split.
    Split { head_dim: usize },
}

impl RowOrder {
    fn new(config: &Config, naming: Naming, target: Target) -> Self {
        let head_dim = config.head_dim;
        let rotated = matches!(target, Target::Layer(_, Projection::Q | Projection::K));
        match (naming.rope_layout(), config.rope_layout) {
            (RopeLayout::HalfSplit, RopeLayout::Interleaved) if rotated => {
                Self::Interleave { head_dim }
            }
            (RopeLayout::Interleaved, RopeLayout::HalfSplit) if rotated => Self::Split { head_dim },
            _ => Self::Same,
        }
    }

    /// The file's row for row `row` of the matrix.
    fn source(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleave { head_dim } => {
                let (head, i) = (row / head_dim, row % head_dim);
                head * head_dim + i % 2 * (head_dim / 2) + i / 2
            }
            Self::Split { head_dim } => {
                let (head, i, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + i % half * 2 + i / half
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_move_as_the_two_layouts_of_a_pair_are_drawn() {
        // The drawing above, twice: the second head follows the first.
        let interleave = RowOrder::Interleave { head_dim: 6 };
        let rows: Vec<usize> = (0..12).map(|row| interleave.source(row)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let split = RowOrder::Split { head_dim: 6 };
        for row in 0..12 {
            assert_eq!(split.source(interleave.source(row)), row);
            assert_eq!(RowOrder::Same.source(row), row);
        }
    }
}

//! Inputs for one run and its outputs: a folder of `input_0.pb`, ... (ONNX `TensorProto`), or one `.npz` with arrays
//! named as the inputs; outputs likewise.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rsqc_ir::types::{Symbol, TensorType};
use rsqc_onnx::error::escape;
use rsqc_onnx::source::map_file;
use rsqc_onnx::tensor::{read_tensor, write_tensor};

use super::npz::{Npz, write_npz};
use super::{Array, DataError, describe};

/// A named, typed input or output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name in the model.
    pub name: String,
    /// Element type and symbolic shape.
    pub ty: TensorType,
}

impl Spec {
    /// The inputs of a graph.
    pub fn inputs(graph: &rsqc_ir::Graph) -> Vec<Spec> {
        graph
            .inputs()
            .iter()
            .map(|p| Spec {
                name: p.name.clone(),
                ty: graph.ty(p.value).clone(),
            })
            .collect()
    }
}

/// Checks arrays against the inputs' types and finds the values of the symbols. Error texts name the input.
pub fn bind(specs: &[Spec], arrays: &[Array]) -> Result<BTreeMap<Symbol, i64>, String> {
    if specs.len() != arrays.len() {
        return Err(format!("has {} inputs, expected {}", arrays.len(), specs.len()));
    }
    let mut env = BTreeMap::new();
    for (spec, array) in specs.iter().zip(arrays) {
        check_rank(spec, array)?;
        for (dim, &extent) in spec.ty.shape.iter().zip(&array.shape) {
            let extent = i64::try_from(extent).unwrap_or(i64::MAX);
            if let Some(symbol) = dim.as_symbol() {
                env.entry(symbol.clone()).or_insert(extent);
            }
        }
    }
    for (spec, array) in specs.iter().zip(arrays) {
        for (axis, (dim, &extent)) in spec.ty.shape.iter().zip(&array.shape).enumerate() {
            let value = dim.eval(&|s| env.get(s).copied());
            if value.is_some_and(|v| usize::try_from(v).ok() != Some(extent)) {
                let want = match dim.as_const() {
                    Some(v) => v.to_string(),
                    None => format!("{} = {}", escape(&dim.to_string()), value.unwrap_or(0)),
                };
                return Err(format!(
                    "input '{}': axis {axis} has extent {extent}, expected {want}",
                    escape(&spec.name)
                ));
            }
        }
    }
    Ok(env)
}

/// Element type and rank.
fn check_rank(spec: &Spec, array: &Array) -> Result<(), String> {
    let fits = array.ty == spec.ty.storage() && array.shape.len() == spec.ty.rank();
    if fits {
        return Ok(());
    }
    let found = describe(array.ty, &array.shape);
    Err(format!(
        "input '{}' is {found}, expected {}",
        escape(&spec.name),
        escape(&spec.ty.to_string())
    ))
}

/// Reads inputs in the order of `specs` and checks them.
pub fn load(path: &Path, specs: &[Spec]) -> Result<Vec<Array>, DataError> {
    let arrays = if path.is_dir() {
        load_folder(path, specs)?
    } else {
        load_npz(path, specs)?
    };
    bind(specs, &arrays).map_err(|what| DataError::new(path, what))?;
    Ok(arrays)
}

/// Reads one `TensorProto` file.
pub fn load_pb(path: &Path) -> Result<Array, DataError> {
    let fail = |e: rsqc_onnx::error::ErrorKind| DataError::new(path, e.to_string());
    let tensor = read_tensor(&map_file(path).map_err(fail)?).map_err(fail)?;
    Ok(Array {
        ty: tensor.ty.storage,
        shape: tensor.shape,
        data: tensor.data.to_vec(),
    })
}

fn load_folder(path: &Path, specs: &[Spec]) -> Result<Vec<Array>, DataError> {
    let arrays = (0..specs.len())
        .map(|i| load_pb(&path.join(format!("input_{i}.pb"))))
        .collect::<Result<Vec<_>, _>>()?;
    let next = format!("input_{}.pb", specs.len());
    if path.join(&next).exists() {
        return Err(DataError::new(
            path,
            format!("has a file {next}, but the model has {} inputs", specs.len()),
        ));
    }
    Ok(arrays)
}

fn load_npz(path: &Path, specs: &[Spec]) -> Result<Vec<Array>, DataError> {
    let mut npz = Npz::open(path)?;
    specs
        .iter()
        .map(|spec| {
            if !npz.contains(&spec.name) {
                let known: Vec<String> = npz.names().take(8).map(|n| format!("'{}'", escape(n))).collect();
                let what = format!(
                    "has no array for the input '{}', only {}",
                    escape(&spec.name),
                    known.join(", ")
                );
                return Err(DataError::new(path, what));
            }
            npz.read(&spec.name)
        })
        .collect()
}

/// Writes outputs: an `.npz` if the path ends so, a folder of `output_0.pb`, ... otherwise. Files appear whole or not at
/// all.
pub fn save(path: &Path, outputs: &[(String, Array)]) -> Result<(), DataError> {
    if path.extension().is_some_and(|e| e == "npz") {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let fail = |what: String| DataError::new(path, what);
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| fail(e.to_string()))?;
        write_npz(file.as_file_mut(), outputs.iter().map(|(n, a)| (n.as_str(), a))).map_err(fail)?;
        return persist(file, path);
    }
    std::fs::create_dir_all(path).map_err(|e| DataError::new(path, e.to_string()))?;
    let mut files = Vec::new();
    for (i, (name, array)) in outputs.iter().enumerate() {
        let target = path.join(format!("output_{i}.pb"));
        let mut file =
            tempfile::NamedTempFile::new_in(path).map_err(|e| DataError::new(&target, e.to_string()))?;
        let bytes = write_tensor(name, array.ty, &array.shape, &array.data);
        file.write_all(&bytes)
            .and_then(|()| file.flush())
            .map_err(|e| DataError::new(&target, e.to_string()))?;
        files.push((file, target));
    }
    files
        .into_iter()
        .try_for_each(|(file, target)| persist(file, &target))
}

/// Gives a finished temporary file its name, with the permissions of an ordinary new file.
fn persist(file: tempfile::NamedTempFile, target: &Path) -> Result<(), DataError> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |e: std::io::Error| DataError::new(target, e.to_string());
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))
        .map_err(fail)?;
    file.persist(target).map_err(|e| fail(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_ir::types::{Dim, ScalarType};

    fn specs() -> Vec<Spec> {
        let (b, s, p) = (Dim::sym("b"), Dim::sym("s"), Dim::sym("p"));
        vec![
            Spec {
                name: "mask".into(),
                ty: TensorType::new(ScalarType::U8, vec![b.clone(), p.clone() + s.clone()]),
            },
            Spec {
                name: "ids".into(),
                ty: TensorType::new(ScalarType::U8, vec![b.clone(), s]),
            },
            Spec {
                name: "past".into(),
                ty: TensorType::new(ScalarType::U8, vec![b, p, Dim::from(2usize)]),
            },
        ]
    }

    fn array(shape: &[usize]) -> Array {
        Array {
            ty: ScalarType::U8,
            shape: shape.to_vec(),
            data: vec![3; shape.iter().product()],
        }
    }

    #[test]
    fn symbols_are_bound_and_expressions_checked() {
        let good = [array(&[1, 5]), array(&[1, 3]), array(&[1, 2, 2])];
        let env = bind(&specs(), &good).unwrap();
        assert_eq!(env.values().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let cases = [
            (
                [array(&[1, 6]), array(&[1, 3]), array(&[1, 2, 2])],
                "axis 1 has extent 6",
            ),
            ([array(&[1, 5]), array(&[2, 3]), array(&[1, 2, 2])], "'ids'"),
            (
                [array(&[1, 5]), array(&[1, 3]), array(&[1, 2, 3])],
                "extent 3, expected 2",
            ),
            (
                [array(&[5]), array(&[1, 3]), array(&[1, 2, 2])],
                "expected u8[b, ",
            ),
        ];
        for (arrays, want) in cases {
            let text = bind(&specs(), &arrays).unwrap_err();
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn folders_and_archives_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let arrays = [array(&[1, 5]), array(&[1, 3]), array(&[1, 2, 2])];
        let named: Vec<(String, Array)> = specs().into_iter().map(|s| s.name).zip(arrays.clone()).collect();
        let npz = dir.path().join("x.npz");
        save(&npz, &named).unwrap();
        assert_eq!(load(&npz, &specs()).unwrap(), arrays);
        let folder = dir.path().join("out");
        save(&folder, &named).unwrap();
        for i in 0..3 {
            std::fs::rename(
                folder.join(format!("output_{i}.pb")),
                folder.join(format!("input_{i}.pb")),
            )
            .unwrap();
        }
        assert_eq!(load(&folder, &specs()).unwrap(), arrays);
        let text = load(&folder, &specs()[..2]).unwrap_err().to_string();
        assert!(text.contains("input_2.pb"), "{text}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "no temporary file may stay"
        );
    }
}

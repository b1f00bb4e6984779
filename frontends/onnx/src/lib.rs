//! rsqc-onnx

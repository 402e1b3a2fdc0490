"""Encoders in other frameworks: timm, transformers, ONNX."""

"""Turns PyTorch modules into ONNX graphs: operators, precisions, folding, quantisation."""

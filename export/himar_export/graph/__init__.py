"""From PyTorch modules to ONNX graphs: operators, precisions, folding, quantisation."""

"""Networks as graphs for other programs: ONNX and torch.export, with the explanation as a second output."""

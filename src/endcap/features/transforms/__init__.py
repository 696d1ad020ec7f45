"""One transform, three faces: fit on Ibis, apply on Arrow, nodes for ONNX, held equal by a property test."""

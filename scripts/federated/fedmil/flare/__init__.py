"""The NVIDIA FLARE apps."""

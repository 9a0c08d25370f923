"""Text in FLARE's messages, which carry arrays."""

import numpy as np


def pack(texts: dict[str, str]) -> dict[str, np.ndarray]:
    """Texts as arrays of bytes."""
    return {k: np.frombuffer(v.encode(), np.uint8) for k, v in texts.items()}


def unpack(params: dict[str, np.ndarray]) -> dict[str, str]:
    """What `pack` packed."""
    return {k: bytes(np.asarray(v, np.uint8)).decode() for k, v in params.items()}

"""Lines in the spectrum of a picture, which patterns of 4×4 or 2×2 pixels leave."""

import numpy as np


def line_strengths(change: np.ndarray) -> list[float]:
    """Power at a quarter and at half of the sampling frequency over the median of its neighbours, both axes."""
    power = np.abs(np.fft.fft2(change - change.mean())) ** 2
    found = []
    for axis in (0, 1):
        spectrum = power.sum(1 - axis)
        for at in (len(spectrum) // 4, len(spectrum) // 2):
            found.append(spectrum[at] / np.median([spectrum[at + k] for k in (-4, -3, -2, 2, 3, 4)]))
    return found

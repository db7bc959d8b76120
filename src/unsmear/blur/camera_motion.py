"""Smooth random motion of a hand-held camera: translation, roll, zoom and tilt."""

import numpy as np


class CameraPath:
    """Smooth 2-D path, a drift plus three oscillations, with a mean of ``speed`` px per frame step over ``times``."""

    def __init__(self, times: np.ndarray, rng: np.random.Generator, speed: float):
        heading = rng.uniform(0, 2 * np.pi)
        self.drift = np.stack([np.cos(heading), np.sin(heading)]) * rng.uniform(0.3, 1)
        self.shakes: list[tuple[float, np.ndarray, np.ndarray]] = []
        for _ in range(3):
            frequency = rng.uniform(0.05, 0.45)
            amplitude = rng.normal(size=2) * 0.35 / (2 * np.pi * frequency)
            self.shakes.append((frequency, amplitude, rng.uniform(0, 2 * np.pi, 2)))
        self.scale, self.origin = 1.0, np.zeros(2)
        travelled = np.linalg.norm(np.diff(self.at(times), axis=0), axis=-1).sum() / (times[-1] - times[0])
        self.scale = speed / max(travelled, 1e-6)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Positions (…, 2) at ``times``, pixels."""
        path = times[..., None] * self.drift
        for frequency, amplitude, phase in self.shakes:
            path = path + amplitude * np.sin(2 * np.pi * frequency * times[..., None] + phase)
        return path * self.scale - self.origin


class CameraTurn:
    """Roll, zoom and slight tilt of strength ``sway``."""

    def __init__(self, rng: np.random.Generator, sway: float, size: int):
        self.rolling, self.swinging = rng.normal() * 0.35 * sway, rng.normal() * 0.1 * sway
        self.frequency = rng.uniform(0.3, 2)
        self.zooming = rng.normal() * 0.25 * sway
        self.tilt = rng.normal(size=2) * 0.15 * sway / size
        self.size = size

    def poses(self, times: np.ndarray, path: np.ndarray) -> np.ndarray:
        """Maps (n, 3, 3) from view to picture pixels; ``path`` (n, 2) are the positions of the view's centre."""
        roll = self.rolling * times + self.swinging * np.sin(times * self.frequency)
        zoom = np.exp(self.zooming * times)
        half = self.size / 2
        to_centre = np.array([[1, 0, -half], [0, 1, -half], [0, 0, 1]], np.float64)
        c, s = np.cos(roll) * zoom, np.sin(roll) * zoom
        spin = np.zeros((len(times), 3, 3))
        spin[:, 0, 0], spin[:, 0, 1], spin[:, 1, 0], spin[:, 1, 1] = c, -s, s, c
        spin[:, 2, 0], spin[:, 2, 1], spin[:, 2, 2] = self.tilt[0] * times, self.tilt[1] * times, 1
        shift = np.tile(np.eye(3), (len(times), 1, 1))
        shift[:, :2, 2] = path
        return shift @ spin @ to_centre

    def corners(self, times: np.ndarray, path: np.ndarray) -> np.ndarray:
        """Positions (n, 4, 2) in the picture of the corners of the view."""
        last = self.size - 1
        corners = np.array([[0, 0, 1], [last, 0, 1], [0, last, 1], [last, last, 1]], np.float64)
        mapped = corners @ self.poses(times, path).transpose(0, 2, 1)
        return mapped[..., :2] / mapped[..., 2:]

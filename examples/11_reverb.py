"""A long convolution: a plucked string in a large room, by ops.fft_conv.

The string is a recording that comes with Python's own tests, in two channels. The room is what a clap
leaves: noise that dies away, a little different for each ear, as long as the recording. Thousands of products
for each sample are a few butterflies by way of spectra. Saves a picture where matplotlib is.
"""

import tempfile
import wave
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tilec import ops


def pluck() -> tuple[np.ndarray, int]:
    """Sound [1, 2, samples] between -1 and 1, and samples per second."""
    try:
        path = files("test.audiodata").joinpath("pluck-pcm16.wav")
        with path.open("rb") as file, wave.open(file) as sound:
            data, rate = sound.readframes(sound.getnframes()), sound.getframerate()
    except (ImportError, OSError):  # some systems leave Python's tests out: a string of our own then
        rate, t = 11025, np.arange(3307) / 11025
        mono = sum(np.exp(-6 * n * t) * np.sin(2 * np.pi * 220 * n * t) / n for n in range(1, 9))
        return np.stack([mono, mono])[None].astype(np.float32) / 2, rate
    return np.frombuffer(data, "<i2").reshape(-1, 2).T[None].astype(np.float32) / 2**15, rate


def room(samples: int, rate: int, seconds: float = 0.15) -> np.ndarray:
    """A kernel [2, samples]: the sound itself, then its echoes, 60 dB lower after so many seconds."""
    echoes = np.random.default_rng(0).standard_normal((2, samples)) * 0.1
    echoes *= 10 ** (-3 * np.arange(samples) / (seconds * rate))
    echoes[:, : rate // 100] = 0  # the first wall is some metres away
    echoes[:, 0] = 1
    return echoes.astype(np.float32)


def spectrogram(sound: np.ndarray, window: int = 256, step: int = 32) -> np.ndarray:
    """Decibels [frequency, time] of one channel."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::step] * np.hanning(window)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-3)


def picture(dry: np.ndarray, wet: np.ndarray, rate: int) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, sound, title in zip(figure.subplots(1, 2), (dry, wet), ("dry", "in the room"), strict=True):
        shown = spectrogram(sound)
        end = len(sound) / rate
        axes.imshow(shown, origin="lower", aspect="auto", extent=(0, end, 0, rate / 2), vmin=-40, vmax=30)
        axes.set(title=title, xlabel="seconds", ylabel="hertz")
    path = Path(tempfile.mkdtemp(), "reverb.png")
    figure.savefig(path)
    return path


def main() -> None:
    dry, rate = pluck()
    kernel = room(dry.shape[-1], rate)
    wet = ops.fft_conv(dry, kernel)
    for channel in range(2):
        wanted = np.convolve(dry[0, channel], kernel[channel])[: dry.shape[-1]]
        np.testing.assert_allclose(wet[0, channel], wanted, atol=1e-5)
    tail = slice(-rate // 20, None)  # the last twentieth of a second, where the room still sounds
    loud = [20 * np.log10(np.sqrt(np.mean(sound[..., tail] ** 2)) + 1e-9) for sound in (dry, wet)]
    print(f"{dry.shape[-1]} samples and taps: the end went from {loud[0]:.0f} dB to {loud[1]:.0f} dB")
    if find_spec("matplotlib"):
        print("spectrograms:", picture(dry[0, 0], wet[0, 0], rate))


if __name__ == "__main__":
    main()

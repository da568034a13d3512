"""Joules that a cell's device took: NVML counts those of an NVIDIA GPU, RAPL those of a CPU.

Both count the whole device: of cells that share one, each is told what all of them took.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
Counter = Callable[[], float]  # joules since the counter began


def meter(device: torch.device, *, rapl: Path | None = None) -> Callable[[], float | None]:
    """What the device has taken since now, when it is called; None where nothing counts it."""
    with suppress(OSError, ValueError, AttributeError, RuntimeError):
        count, turn = _gpu(device) if device.type == "cuda" else _cpu(rapl or RAPL)
        began = count()

        def taken() -> float | None:
            with suppress(OSError, ValueError, RuntimeError):
                gone = count() - began
                return gone if gone >= 0 else gone + turn
            return None

        return taken
    return lambda: None


def _gpu(device: torch.device) -> tuple[Counter, float]:
    """NVML's counter of the GPU that torch calls so; the driver brings the library."""
    nvml, handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    _checked(nvml.nvmlInit_v2())
    _checked(nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)))

    def count() -> float:
        millijoules = ctypes.c_ulonglong()
        _checked(nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))
        return millijoules.value / 1000

    return count, 0.0


def _cpu(rapl: Path) -> tuple[Counter, float]:
    """RAPL's counters of the packages; they begin again after `turn` joules."""
    packages = sorted(path for path in rapl.glob("*-rapl:*") if path.name.count(":") == 1)
    if not packages:
        raise OSError("no counter")

    def read(name: str) -> float:
        return sum(int((path / name).read_text()) for path in packages) / 1e6

    return lambda: read("energy_uj"), read("max_energy_range_uj") / len(packages)


def _checked(code: int) -> None:
    if code:
        raise OSError(f"NVML says {code}")

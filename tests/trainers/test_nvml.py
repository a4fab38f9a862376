"""GPUs by ctypes from a real shared library: one with NVML's interface, compiled here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# nvml.h: structures by value and by pointer, and the widths of its numbers.
LIBRARY = r"""
#include <string.h>
typedef int nvmlReturn_t;
typedef struct nvmlDevice_st { unsigned index; } *nvmlDevice_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct {
    unsigned version; unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
static struct nvmlDevice_st devices[2] = {{0}, {1}};
static int begun = 0;

nvmlReturn_t nvmlInit_v2(void) { begun = 1; return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return begun ? 0 : 1; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index > 1) return 2;
    *device = &devices[index];
    return 0;
}
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (strcmp(uuid, "GPU-b")) return 6;
    *device = &devices[1];
    return 0;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    strncpy(name, device->index ? "Second GPU" : "First GPU", length);
    return 0;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *use) {
    use->gpu = 70 + device->index;
    use->memory = 30;
    return 0;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    memory->total = 85899345920ULL;  /* 80 GiB: more than 32 bits */
    memory->used = 21474836480ULL;
    memory->free = memory->total - memory->used;
    return 0;
}
#ifndef OLD
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (memory->version != (sizeof(nvmlMemory_v2_t) | (2 << 24))) return 25;
    if (device->index) return 3;  /* not supported */
    memory->total = 85899345920ULL;
    memory->reserved = 4294967296ULL;
    memory->used = 17179869184ULL;
    memory->free = memory->total - memory->reserved - memory->used;
    return 0;
}
#endif
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    *milliwatts = 350500;
    return device->index ? 3 : 0;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *celsius) {
    *celsius = 61;
    return sensor == 0 ? 0 : 2;
}
"""
READ = """
import json
from llm_train.system import Sampler, name_gpus
print(json.dumps([name_gpus(), Sampler().read()]))
"""


def build(folder: Path, *flags: str) -> Path:
    """Compile a libnvidia-ml.so.1 in a folder."""
    (folder / "nvml.c").write_text(LIBRARY)
    flags = ("-shared", "-fPIC", "-Wall", "-Werror", *flags)
    subprocess.run(["cc", *flags, "-o", "libnvidia-ml.so.1", "nvml.c"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1."""
    return build(tmp_path_factory.mktemp("nvml"))


def read(library: Path, **more: str) -> tuple[list[str], dict[str, Any]]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library), **more}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True
    )
    names, values = json.loads(done.stdout)
    return names, {key: value for key, value in values.items() if "/gpu" in key}


def test_every_gpu_is_read_by_its_library(library: Path) -> None:
    names, values = read(library)
    assert names == ["First GPU", "Second GPU"]
    assert values == {
        "system/gpu0/utilization_percent": 70.0, "system/gpu1/utilization_percent": 71.0,
        "system/gpu0/memory_mb": 17179.869184,  # without what the driver keeps for itself
        "system/gpu0/memory_percent": 20.0,
        "system/gpu1/memory_mb": 21474.83648, "system/gpu1/memory_percent": 25.0,  # cannot tell
        "system/gpu0/temperature_c": 61.0, "system/gpu1/temperature_c": 61.0,
        "system/gpu0/power_w": 350.5,  # the second cannot tell
    }  # fmt: skip


def test_an_old_driver_is_read_as_well(tmp_path: Path) -> None:
    _, values = read(build(tmp_path, "-DOLD"))
    assert values["system/gpu0/memory_mb"] == values["system/gpu1/memory_mb"] == 21474.83648


@pytest.mark.parametrize(
    ("visible", "expected"), [("1", ["Second GPU"]), ("GPU-b", ["Second GPU"]), ("7", []), ("", [])]
)
def test_the_visible_ones_are_read(library: Path, visible: str, expected: list[str]) -> None:
    names, values = read(library, CUDA_VISIBLE_DEVICES=visible)
    assert names == expected
    assert {key.split("/")[1] for key in values} == {f"gpu{n}" for n in range(len(expected))}


def test_a_library_of_something_else_is_no_gpu(library: Path, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert read(tmp_path) == ([], {})

# ruff: noqa: INP001, T201 -- a script that speaks
"""The main job, from projections to a picture: ``python examples/demo.py build/demo [ROOT]``.

A real scan and a phantom go into an archive as DICOM, are reconstructed there with Spark, and come
out as CT series, files and a picture. Running it again finds what is there.
"""

import argparse
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from phantom import write_phantom_scan

import pacspark
from pacspark.errors import PacsparkError
from pacspark.middle_row import middle_row_sinogram
from pacspark.pictures import ImagePlane, Sinogram, Window, draw_panels
from pacspark.progress import counted_unit

EXAMPLES = Path(__file__).parent
HEAD_WINDOW = Window(0.0, 2000.0)


@dataclass(frozen=True)
class Result:
    """One scan and what became of it."""

    name: str
    sinogram: Sinogram
    volume: pacspark.Volume
    n_files: int
    took: str

    def panels(self) -> list[ImagePlane | Sinogram]:
        """Give the sinogram, the middle slice, and a plane along the axis where there is one."""
        n_z, n_y, _ = self.volume.shape
        window = HEAD_WINDOW if self.volume.unit == "HU" else None
        planes = [self.volume.slice(z=n_z // 2, window=window)]
        if n_z > 1:
            planes.append(self.volume.slice(y=n_y // 2, window=window))
        panels = [self.sinogram, *planes]
        return [replace(panel, title=f"{self.name}: {panel.title}") for panel in panels]

    def line(self) -> str:
        """Give one line of the summary."""
        n_z, n_y, n_x = self.volume.shape
        n_angles, n_columns = self.sinogram.values.shape
        return (
            f"{self.name:<8} {n_angles} views of {n_columns} columns -> "
            f"{n_x} x {n_y} x {n_z} voxels ({self.volume.unit}), {self.n_files} "
            f"{counted_unit(self.n_files, 'files')}, {self.took}"
        )


def say(text: str) -> None:
    """Tell what is going on, beside the progress."""
    print(text, file=sys.stderr, flush=True)


def run(archive: pacspark.Archive, name: str, description: Path, folder: Path) -> Result:
    """Import, reconstruct and export one scan."""
    say(f"{name}: {description}")
    started = time.monotonic()
    scan_uid = archive.import_scan(description).series_instance_uid
    report = archive.reconstruct_series(scan_uid)[0]
    volume = archive.volume(report.series_instance_uid)
    shutil.rmtree(folder, ignore_errors=True)
    files = archive.export(folder, series=volume.series_uid)
    took = "found, not made again" if report.found else f"{time.monotonic() - started:.1f} s"
    sinogram = middle_row_sinogram(archive.catalog, scan_uid)
    return Result(name, sinogram, volume, len(files), took)


def main(build: Path, root: str) -> None:
    """Run the demonstration in a folder, with the archive there or elsewhere."""
    archive = pacspark.create(root)
    descriptions = {
        "walnut": EXAMPLES / "walnut" / "SCAN.toml",
        "phantom": write_phantom_scan(build / "scans" / "phantom"),
    }
    results = [
        run(archive, name, description, build / "dicom" / name)
        for name, description in descriptions.items()
    ]
    picture = draw_panels(
        [result.panels() for result in results], "sinogram and reconstruction"
    ).save(build / "reconstruction.png")
    print()
    for result in results:
        print(result.line())
    print(f"picture: {picture}")
    print(f"archive: {archive.root}, DICOM files: {build / 'dicom'}")
    command = Path(sys.executable).with_name("pacspark")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    head = results[-1].volume.series_uid
    print("the phantom's three planes, into a PNG:")
    print(f"{shown} view {archive.root} {head} {build / 'phantom.png'}")
    print("both scans in a browser, at http://127.0.0.1:8042/ (OHIF after `make viewer`):")
    print(f"{shown} serve {archive.root}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="From projections to a picture.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/demo"))
    parser.add_argument("root", nargs="?", help="of the archive; default: FOLDER/archive")
    words = parser.parse_args()
    try:
        main(words.folder, words.root or str(words.folder / "archive"))
    except PacsparkError as error:
        sys.exit(f"{type(error).__name__}: {error}")

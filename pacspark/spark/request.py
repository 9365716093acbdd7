"""What a reconstruction is asked for, from which its identity derives."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from pacspark import __version__
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid


@dataclass(frozen=True, slots=True)
class ReconstructionRequest:
    """What is asked: everything that the result depends on, and so its identity.

    Parameters
    ----------
    series_instance_uid
        A projection series in the archive.
    grid
        Where the voxels are.
    options
        Filter and cut-off.
    energy_bin
        Index of the energy bin.
    water_mu_per_mm
        Attenuation of water, 1/mm, for Hounsfield units; None: the scan's own, else a linear map of
        1/mm.
    """

    series_instance_uid: str
    grid: VolumeGrid
    options: FDKOptions = field(default_factory=FDKOptions)
    energy_bin: int = 0
    water_mu_per_mm: float | None = None

    def as_json(self) -> str:
        """Return the request as JSON, keys in order."""
        return json.dumps(asdict(self), sort_keys=True)

    def run_id(self) -> str:
        """Return the digest of the request and of the code's version."""
        text = f"reconstruct {__version__} {self.as_json()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

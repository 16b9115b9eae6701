"""Content-addressed, atomically published stage outputs."""

from illada.artifacts.files import atomic_path, sha256_file, write_json, write_text
from illada.artifacts.fingerprint import StageIdentity, canonical_json, fingerprint
from illada.artifacts.progress import NoProgress, Progress, StageInterrupted
from illada.artifacts.store import Artifact, ArtifactError, Attempt, DamagedWork, Store

__all__ = [
    "Artifact",
    "ArtifactError",
    "Attempt",
    "DamagedWork",
    "NoProgress",
    "Progress",
    "StageIdentity",
    "StageInterrupted",
    "Store",
    "atomic_path",
    "canonical_json",
    "fingerprint",
    "sha256_file",
    "write_json",
    "write_text",
]

"""Content-addressed, atomically published stage outputs."""

from illada.artifacts.artifact import Artifact, Attempt, DamagedWork, transfer
from illada.artifacts.files import atomic_path, sha256_file, write_json, write_text
from illada.artifacts.fingerprint import StageIdentity, canonical_json, fingerprint
from illada.artifacts.folder import ArtifactError, Folder
from illada.artifacts.lineage import by_name, lineage
from illada.artifacts.progress import NoProgress, Progress, StageInterrupted
from illada.artifacts.store import Store

__all__ = [
    "Artifact",
    "ArtifactError",
    "Attempt",
    "DamagedWork",
    "Folder",
    "NoProgress",
    "Progress",
    "StageIdentity",
    "StageInterrupted",
    "Store",
    "atomic_path",
    "by_name",
    "canonical_json",
    "fingerprint",
    "lineage",
    "sha256_file",
    "transfer",
    "write_json",
    "write_text",
]

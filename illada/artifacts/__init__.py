"""Content-addressed, atomically published stage outputs."""

from illada.artifacts.artifact import Artifact, Attempt, DamagedWork, transfer
from illada.artifacts.cache import cache_bytes, scratch_folder
from illada.artifacts.fence import Fence, StaleDriverError, check_fence, claim, newest_epoch
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
    "Fence",
    "Folder",
    "NoProgress",
    "Progress",
    "StaleDriverError",
    "StageIdentity",
    "StageInterrupted",
    "Store",
    "atomic_path",
    "by_name",
    "cache_bytes",
    "canonical_json",
    "check_fence",
    "claim",
    "fingerprint",
    "lineage",
    "newest_epoch",
    "scratch_folder",
    "sha256_file",
    "transfer",
    "write_json",
    "write_text",
]

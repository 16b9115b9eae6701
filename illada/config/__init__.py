"""Typed, frozen configuration: what a run is (identity) and where it happens (placement)."""

from illada.config.base import Config, ConfigError
from illada.config.data import (
    Benchmark,
    CorpusSnapshot,
    Curate,
    DataConfig,
    Decontaminate,
    Deduplicate,
    Pairs,
    Tokenize,
    Tokenizer,
)
from illada.config.evaluation import Evaluate, Generate
from illada.config.filters import C4, FineWeb, GopherQuality, GopherRepetition
from illada.config.load import apply_overrides, dump_config, load_config, parse_config, read_config
from illada.config.mixture import Bounds, Mixture, SourceShare
from illada.config.model import ModelConfig
from illada.config.placement import DataPlacement, Placement, TrainPlacement
from illada.config.privacy import Privacy
from illada.config.quality import Examples, Quality
from illada.config.refresh import RefreshConfig
from illada.config.release import GATES, GateName, Gates, Release, Threshold
from illada.config.release_run import Checkpoint, ReleaseConfig
from illada.config.sources import (
    CODE_EXTENSIONS,
    PlainText,
    PythonCode,
    Repositories,
    Source,
    TextFiles,
    WarcFiles,
    WebDocs,
)
from illada.config.substrings import Substrings
from illada.config.training import BatchStage, Drop, Guard, Objective, Optimizer, Plateau, Responses, Schedule, Training
from illada.config.workflow import RunConfig, WorkflowConfig

__all__ = [
    "BatchStage",
    "Benchmark",
    "Bounds",
    "C4",
    "CODE_EXTENSIONS",
    "Checkpoint",
    "Config",
    "ConfigError",
    "CorpusSnapshot",
    "Curate",
    "DataConfig",
    "DataPlacement",
    "Decontaminate",
    "Deduplicate",
    "Drop",
    "Evaluate",
    "Examples",
    "FineWeb",
    "GATES",
    "GateName",
    "Gates",
    "Generate",
    "GopherQuality",
    "GopherRepetition",
    "Guard",
    "Mixture",
    "ModelConfig",
    "Objective",
    "Optimizer",
    "Pairs",
    "Placement",
    "PlainText",
    "Plateau",
    "Privacy",
    "PythonCode",
    "Quality",
    "RefreshConfig",
    "Release",
    "ReleaseConfig",
    "Repositories",
    "Responses",
    "RunConfig",
    "Schedule",
    "Source",
    "SourceShare",
    "Substrings",
    "TextFiles",
    "Threshold",
    "Tokenize",
    "Tokenizer",
    "TrainPlacement",
    "Training",
    "WarcFiles",
    "WebDocs",
    "WorkflowConfig",
    "apply_overrides",
    "dump_config",
    "load_config",
    "parse_config",
    "read_config",
]
